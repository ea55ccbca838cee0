"""`python -m local_gateway keys`: make, list and revoke API keys. A running gateway knows of it within two seconds."""

import argparse
import math
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import get_args

from local_gateway.accounts.keys import Key, Period, new_key
from local_gateway.accounts.spend import Spends, name_of
from local_gateway.commands.table import Listing
from local_gateway.config.settings import GatewaySettings
from local_gateway.errors import ConfigError
from local_gateway.storage.database import RefusedRowError
from local_gateway.storage.store import Store

COLUMNS = ("name", "key", "id", "models", "rpm", "tpm", "at once", "budget", "spent", "created", "expires", "state")
NUMERIC = frozenset({"rpm", "tpm", "at once", "budget", "spent"})
SHOWN_ID = 8  # characters
MAX_NAME = 100  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="keys_command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key and print it, this once")
    create.add_argument("name", metavar="NAME", type=_name, help="whose it is, or what for")
    create.add_argument("--models", type=_models, default=(), metavar="A,B*", help="that it may use (default: all)")
    create.add_argument("--rpm", type=_count, metavar="N", help="requests per minute")
    create.add_argument("--tpm", type=_count, metavar="N", help="tokens per minute, of prompts and completions")
    create.add_argument("--concurrency", type=_count, metavar="N", help="requests at once")
    create.add_argument("--budget", type=_money, metavar="MONEY", help="in the currency of the models' prices")
    create.add_argument("--period", choices=get_args(Period), default="month", help="of the budget (default: month)")
    create.add_argument("--expires", type=_time, metavar="DATE", help="when it stops working, in UTC: 2027-01-31")
    create.add_argument("--admin", action="store_true", help="may see all requests, and make and revoke keys")
    lister = commands.add_parser("list", help="show all keys, with what they may use")
    lister.add_argument("--csv", action="store_true", help="as CSV")
    revoke = commands.add_parser("revoke", help="disable a key for good")
    revoke.add_argument("key", metavar="KEY", help="its name, the beginning that is shown of it, or its id")


def run(args: argparse.Namespace, settings: GatewaySettings) -> int:
    """Create, list or revoke; returns the exit status. Raises StoreError, and ConfigError for a wrong name."""
    commands = {"create": _create, "list": _list, "revoke": _revoke}
    with closing(Store(settings.database.url)) as store:
        commands[args.keys_command](args, store)
    return 0


def _create(args: argparse.Namespace, store: Store) -> None:
    """Only the key goes to standard output, so that it can be piped to where it is kept."""
    secret, key = new_key(
        args.name,
        created=time.time(),
        models=args.models,
        max_rpm=args.rpm,
        max_tpm=args.tpm,
        max_concurrency=args.concurrency,
        budget=args.budget,
        period=args.period,
        expires=args.expires,
        is_admin=args.admin,
    )
    try:
        store.add_key(key)
    except RefusedRowError as error:
        raise ConfigError(f"There is a key named {args.name!r} already: revoke it, or choose another name.") from error
    sys.stderr.write(f"The key of {args.name}. It is not shown again:\n")
    sys.stderr.flush()
    sys.stdout.write(f"{secret}\n")


def _list(args: argparse.Namespace, store: Store) -> None:
    now = time.time()
    spends = store.spends(now)
    listing = Listing(COLUMNS, [_row(key, spends, now) for key in store.all_keys()], NUMERIC)
    listing.write_csv(sys.stdout) if args.csv else listing.print_table(sys.stdout)


def _revoke(args: argparse.Namespace, store: Store) -> None:
    key = _find(store.all_keys(), args.key)
    store.disable_key(key.id)
    sys.stdout.write(f"The key {key.name} ({key.prefix}...) is revoked.\n")


def _find(keys: list[Key], wanted: str) -> Key:
    """By name first: revoked keys may have had the same."""
    active = [key for key in keys if not key.is_disabled]
    found = [key for key in active if key.name == wanted] or [key for key in active if _is_called(key, wanted)]
    if len(found) != 1:
        number = "no active key" if not found else f"{len(found)} active keys"
        raise ConfigError(f"There is {number} called {wanted!r}: `keys list` shows all.")
    return found[0]


def _is_called(key: Key, wanted: str) -> bool:
    is_id = len(wanted) >= SHOWN_ID and key.id.startswith(wanted)
    return is_id or key.prefix == wanted.rstrip(".")


def _row(key: Key, spends: Spends, now: float) -> list[str]:
    spent = spends.get((key.id, name_of(key.period, now)), 0.0)
    return [
        key.name,
        f"{key.prefix}...",
        key.id[:SHOWN_ID],
        ", ".join(key.models) or "all",
        *(_number(limit) for limit in (key.max_rpm, key.max_tpm, key.max_concurrency)),
        "" if key.budget is None else f"{key.budget:g}/{key.period}",
        f"{spent:.4f}",
        name_of("day", key.created),
        "" if key.expires is None else name_of("day", key.expires),
        _state(key, now),
    ]


def _number(limit: int | None) -> str:
    return "" if limit is None else f"{limit}"


def _state(key: Key, now: float) -> str:
    if key.is_disabled:
        return "revoked"
    return "active" if key.is_valid(now) else "expired"


# What arguments may be


def _name(value: str) -> str:
    if not value or len(value) > MAX_NAME or not value.isprintable():
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_NAME} printable characters")
    return value


def _models(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    wrong = next((name for name in names if "*" in name[:-1]), None)
    if wrong or not names:
        raise argparse.ArgumentTypeError(f"{wrong or value!r}: write names, or beginnings that end in *, with commas")
    return names


def _count(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 2**53:
        raise argparse.ArgumentTypeError(f"{value!r} is no count: write 1 or more")
    return int(value)


def _money(value: str) -> float:
    try:
        money = float(value)
    except ValueError:
        money = math.nan
    if not 0 <= money < math.inf:
        raise argparse.ArgumentTypeError(f"{value!r} is no amount of money: write 25 or 0.50")
    return money


def _time(value: str) -> float:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is no date: write 2027-01-31 or 2027-01-31T18:00") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
