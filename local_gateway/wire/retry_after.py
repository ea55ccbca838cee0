"""How long a server asks to be left alone: `Retry-After` in seconds or as a date, and `retry-after-ms`. Pure."""

import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

NAMES = ("retry-after-ms", "retry-after", "date")  # header names that are read


def retry_after_of(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds from now, never negative; None if the server does not say, or not in a form that HTTP or OpenAI has.

    `headers` have lower-case names. `retry-after-ms` is the more precise and wins. A date counts from the server's own
    `date`, if it sent one: its clock may differ from ours. `now` gives seconds since 1970.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after", "")
    seconds = _number(told)
    if seconds is not None or not told:
        return seconds
    until, since = _date(told), _date(headers.get("date", ""))
    return None if until is None else max(0.0, until - (now() if since is None else since))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None


def _date(text: str) -> float | None:
    """Seconds since 1970."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
