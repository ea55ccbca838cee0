"""Usage and keys, out of the database and into it. Blocking: each function is called in a thread."""

import csv
import io
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import date
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local_gateway.accounts.auth import Principal
from local_gateway.accounts.keys import Key, Period, new_key
from local_gateway.accounts.spend import Spends, name_of
from local_gateway.errors import ForbiddenError, InvalidRequestError, RouteNotFoundError
from local_gateway.storage.database import RefusedRowError
from local_gateway.storage.store import Grouping, Store, UsageSum

COUNTS = ("requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "cost", "first_token")
ENDPOINT = "endpoint"  # a grouping of its own, for administrators: what RunPod takes, whatever keys were charged
ENDPOINT_COUNTS = (
    *("starts", "billed_seconds", "starting_seconds", "prompt_tokens", "completion_tokens", "cost"),
    *("million_cost", "cold_start_cost"),
)
FORMULA = re.compile(r"^[=+\-@\t\r]")  # how a cell begins that spreadsheets compute
Json = dict[str, Any]


class NewKey(BaseModel):
    """What the page sends to make a key."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=100)
    models: tuple[str, ...] = ()
    max_rpm: int | None = Field(None, ge=1, lt=2**53)
    max_tpm: int | None = Field(None, ge=1, lt=2**53)
    max_concurrency: int | None = Field(None, ge=1, lt=2**53)
    budget: float | None = Field(None, ge=0)
    period: Period = "month"
    expires: float | None = None  # seconds since 1970
    is_admin: bool = False


def groupings(principal: Principal) -> list[str]:
    """By what usage can be added up: with one key there is nothing to add up by key."""
    return [name for name in get_args(Grouping) if principal.is_admin or name != "key"]


def usage(url: str, principal: Principal, by: str, since: str) -> Json:
    """Rows of one grouping, days, the sum, and RunPod's endpoints. Raises InvalidRequestError, StoreError."""
    grouping = _grouping(principal, by)
    with closing(Store(url, create=False)) as store:
        rows = store.usage_by(grouping, _day(since), _whose(principal))
        days = rows if grouping == "day" else store.usage_by("day", _day(since), _whose(principal))
        endpoints = store.endpoints(_day(since)) if principal.is_admin else []
    shown = [_shown(each) for each in days]
    total = {name: sum(each[name] for each in shown) for name in COUNTS if name != "first_token"}
    return {
        "rows": [_shown(row) for row in rows],
        "series": shown,
        "total": total,
        "groupings": groupings(principal),
        "endpoints": [dict(zip((ENDPOINT, *ENDPOINT_COUNTS), each.cells, strict=True)) for each in endpoints],
    }


def usage_csv(url: str, principal: Principal, by: str, since: str) -> str:
    """The same rows for a spreadsheet, which must not compute what a client has named. Raises as `usage` does."""
    if by == ENDPOINT and principal.is_admin:
        with closing(Store(url, create=False)) as store:
            return _csv((ENDPOINT, *ENDPOINT_COUNTS), [each.cells for each in store.endpoints(_day(since))])
    grouping = _grouping(principal, by)
    with closing(Store(url, create=False)) as store:
        return _csv((grouping, *COUNTS), store.usage_by(grouping, _day(since), _whose(principal)))


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The first cell of each row is a name."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for group, *values in rows:
        name = f"'{group}" if FORMULA.match(group) else group
        writer.writerow([name, *("" if value is None else value for value in values)])
    return text.getvalue()


def keys(url: str) -> list[Json]:
    """All, those that are revoked too. Raises StoreError."""
    now = time.time()
    with closing(Store(url, create=False)) as store:
        spends = store.spends(now)
        return [_key(key, spends, now) for key in store.all_keys()]


def make_key(url: str, body: object) -> tuple[str, Key]:
    """The secret and its key. Raises InvalidRequestError, StoreError."""
    wanted = _checked(body)
    secret, key = new_key(
        wanted.name,
        created=time.time(),
        models=wanted.models,
        max_rpm=wanted.max_rpm,
        max_tpm=wanted.max_tpm,
        max_concurrency=wanted.max_concurrency,
        budget=wanted.budget,
        period=wanted.period,
        expires=wanted.expires,
        is_admin=wanted.is_admin,
    )
    with closing(Store(url, create=False)) as store:
        try:
            store.add_key(key)
        except RefusedRowError:
            message = f"There is a key named {wanted.name!r} already: revoke it, or choose another name."
            raise InvalidRequestError(message) from None
    return secret, key


def revoke_key(url: str, key_id: str) -> None:
    """For good. Raises RouteNotFoundError, StoreError."""
    with closing(Store(url, create=False)) as store:
        if not any(key.id == key_id for key in store.all_keys()):
            raise RouteNotFoundError("There is no such key.")
        store.disable_key(key_id)


def _checked(body: object) -> NewKey:
    try:
        wanted = NewKey.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidRequestError(f"{'.'.join(map(str, first['loc'])) or 'The key'}: {first['msg']}") from None
    if not wanted.name.isprintable():
        raise InvalidRequestError("name: must be printable characters")
    if wrong := next((name for name in wanted.models if not name or "*" in name[:-1] or "," in name), None):
        raise InvalidRequestError(f"models: {wrong}: write names, or beginnings that end in *")
    return wanted


def _grouping(principal: Principal, by: str) -> Grouping:
    for known in get_args(Grouping):
        if known == by and known in groupings(principal):
            grouping: Grouping = known
            return grouping
    if by == "key":
        raise ForbiddenError("Usage by key is for administrators.")
    raise InvalidRequestError(f"by: must be one of {', '.join(groupings(principal))}")


def _day(since: str) -> str:
    try:
        return date.fromisoformat(since).isoformat() if since else ""
    except ValueError:
        raise InvalidRequestError("since: must be a day such as 2026-11-22") from None


def _whose(principal: Principal) -> str | None:
    return None if principal.is_admin else principal.id


def _shown(one: UsageSum) -> Json:
    return {"group": one.group, **dict(zip(COUNTS, one[1:], strict=True))}


def _key(key: Key, spends: Spends, now: float) -> Json:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "models": list(key.models),
        "max_rpm": key.max_rpm,
        "max_tpm": key.max_tpm,
        "max_concurrency": key.max_concurrency,
        "budget": key.budget,
        "period": key.period,
        "spent": spends.get((key.id, name_of(key.period, now)), 0.0),
        "created": key.created,
        "expires": key.expires,
        "is_admin": key.is_admin,
        "state": "revoked" if key.is_disabled else "active" if key.is_valid(now) else "expired",
    }
