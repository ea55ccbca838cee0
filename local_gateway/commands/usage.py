"""`python -m local_gateway usage`: requests, tokens and costs by key, model, target or day; workers by endpoint."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import date
from typing import get_args

from local_gateway.commands.table import Listing
from local_gateway.config.settings import GatewaySettings
from local_gateway.storage.endpoints import EndpointSum
from local_gateway.storage.store import Grouping, Store, UsageSum

COUNTS = ("requests", "failed", "prompt tokens", "cached tokens", "completion tokens", "cost", "first token (s)")
ENDPOINT = "endpoint"
ENDPOINT_COUNTS = (
    *("starts", "billed seconds", "starting seconds", "prompt tokens", "completion tokens", "cost"),
    *("a million completion tokens", "a cold start"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    groupings = (*get_args(Grouping), ENDPOINT)
    parser.add_argument("--by", choices=groupings, default="key", help="one line for each (default: key)")
    parser.add_argument("--since", type=_day, metavar="DATE", help="from this day on, in UTC: 2026-11-22")
    parser.add_argument("--csv", action="store_true", help="as CSV, with exact numbers")


def run(args: argparse.Namespace, settings: GatewaySettings) -> int:
    """Print the sums; returns the exit status. Raises StoreError if the database cannot be read."""
    with closing(Store(settings.database.url)) as store:
        if args.by == ENDPOINT:
            _print_endpoints(store.endpoints(args.since or ""), as_csv=args.csv)
            return 0
        sums = store.usage_by(args.by, args.since or "")
    if args.csv:
        Listing((args.by, *COUNTS), [_exact_cells(one) for one in sums], frozenset(COUNTS)).write_csv(sys.stdout)
        return 0
    total = [total_of(sums)] if len(sums) > 1 else []
    Listing((args.by, *COUNTS), [_readable(one) for one in [*sums, *total]], frozenset(COUNTS)).print_table(sys.stdout)
    return 0


def _print_endpoints(sums: Sequence[EndpointSum], *, as_csv: bool) -> None:
    """What RunPod takes for each endpoint's workers, whatever keys were charged."""
    columns, numeric = (ENDPOINT, *ENDPOINT_COUNTS), frozenset(ENDPOINT_COUNTS)
    if as_csv:
        Listing(columns, [_exact_cells(one.cells) for one in sums], numeric).write_csv(sys.stdout)
        return
    Listing(columns, [_endpoint_row(one) for one in sums], numeric).print_table(sys.stdout)


def _endpoint_row(one: EndpointSum) -> list[str]:
    prices = ["-" if price is None else f"{price:,.4f}" for price in (one.million_cost, one.cold_start_cost)]
    counts = f"{one.num_prompt_tokens:,}", f"{one.num_completion_tokens:,}"
    runs = f"{one.num_starts:,}", f"{one.billed_seconds:,}", f"{one.start_seconds:,.0f}"
    return [one.endpoint, *runs, *counts, f"{one.cost:,.4f}", *prices]


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


def _exact_cells(values: Iterable[object]) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def _readable(one: UsageSum) -> list[str]:
    first_token = "" if one.first_token_seconds is None else f"{one.first_token_seconds:.2f}"
    return [one.group or "-", *(f"{count:,}" for count in one[1:6]), f"{one.cost:,.4f}", first_token]


def _day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is no date: write 2026-11-22") from error
