"""How long a server asks to be left alone: `Retry-After` (seconds, a duration, a date) and `retry-after-ms`. Pure."""

import math
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

UNIT = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")  # as OpenAI writes durations in other headers
DURATION = re.compile(rf"(?:{UNIT.pattern}\s*)+")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]")
NAMES = ("retry-after-ms", "retry-after", "date")  # header names that are read


def retry_after_of(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds from now, 0 to a day; None if the server does not say, or not in a form that is in use.

    `headers` have lower-case names. `retry-after-ms` is the more precise and wins. A date counts from the server's own
    `date`, if it sent one: its clock may differ from ours. `now` gives seconds since 1970.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after", "")
    seconds = _number(told) if DURATION.fullmatch(told.strip()) is None else _duration(told.strip())
    if seconds is not None or not told:
        return seconds
    until, since = _date(told), _date(headers.get("date", ""))
    return None if until is None else _within_a_day(until - (now() if since is None else since))


def _within_a_day(seconds: float) -> float:
    return max(0.0, min(seconds, SECONDS["d"]))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return _within_a_day(number) if math.isfinite(number) else None


def _duration(text: str) -> float | None:
    """Of 7s, 1m30s, 1500ms. None of a text without a unit, which is a number."""
    parts = UNIT.findall(text)
    return sum(float(number) * SECONDS[unit] for number, unit in parts) if parts else _number(text)


def _date(text: str) -> float | None:
    """Seconds since 1970."""
    try:
        parsed = datetime.fromisoformat(text) if ISO.match(text) else parsedate_to_datetime(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
