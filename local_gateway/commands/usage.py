"""`python -m local_gateway usage`: requests, tokens and costs by key, model, target or day."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import date
from typing import get_args

from local_gateway.commands.table import Listing
from local_gateway.config.settings import GatewaySettings
from local_gateway.storage.store import Grouping, Store, UsageSum

COUNTS = ("requests", "failed", "prompt tokens", "cached tokens", "completion tokens", "cost", "first token (s)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", choices=get_args(Grouping), default="key", help="one line for each (default: key)")
    parser.add_argument("--since", type=_day, metavar="DATE", help="from this day on, in UTC: 2026-11-22")
    parser.add_argument("--csv", action="store_true", help="as CSV, with exact numbers")


def run(args: argparse.Namespace, settings: GatewaySettings) -> int:
    """Print the sums; returns the exit status. Raises StoreError if the database cannot be read."""
    with closing(Store(settings.database.url)) as store:
        sums = store.usage_by(args.by, args.since or "")
    if args.csv:
        Listing((args.by, *COUNTS), [_exact(one) for one in sums], frozenset(COUNTS)).write_csv(sys.stdout)
        return 0
    total = [total_of(sums)] if len(sums) > 1 else []
    Listing((args.by, *COUNTS), [_readable(one) for one in [*sums, *total]], frozenset(COUNTS)).print_table(sys.stdout)
    return 0


def total_of(sums: Sequence[UsageSum]) -> UsageSum:
    """Without a mean time: the groups' means do not add up."""
    return UsageSum(
        group="total",
        num_requests=sum(one.num_requests for one in sums),
        num_failed=sum(one.num_failed for one in sums),
        num_prompt_tokens=sum(one.num_prompt_tokens for one in sums),
        num_cached_tokens=sum(one.num_cached_tokens for one in sums),
        num_completion_tokens=sum(one.num_completion_tokens for one in sums),
        cost=sum(one.cost for one in sums),
        first_token_seconds=None,
    )


def _exact(one: UsageSum) -> list[str]:
    return ["" if value is None else str(value) for value in one]


def _readable(one: UsageSum) -> list[str]:
    first_token = "" if one.first_token_seconds is None else f"{one.first_token_seconds:.2f}"
    return [one.group or "-", *(f"{count:,}" for count in one[1:6]), f"{one.cost:,.4f}", first_token]


def _day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is no date: write 2026-11-22") from error
