"""What of a target's head a client may see: a short list of headers, as far as HTTP can carry them. Pure."""

import re
from collections.abc import Mapping

from local_gateway.wire.retry_after import NAMES, retry_after_of
from local_gateway.wire.sse import EVENT_STREAM

VISIBLE = {
    "content-type",
    "content-disposition",
    "retry-after",
    "x-request-id",
    "openai-processing-ms",
    "openai-version",
}
VISIBLE_PREFIX = "x-ratelimit-"
MAX_VISIBLE_HEADERS = 50
PAUSES = range(400, 600)  # statuses after which a target may ask to be left alone
MAX_VALUE_CHARS = 4096  # of a header; a longer one is left out
SENDABLE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def visible_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that clients may see: names in lower case, values in Latin-1 for the bytes that came, as in ASGI.

    A header that cannot be sent on is left out: one with control characters, or too long.
    """
    lower = {
        lower: _as_bytes(value)
        for name, value in headers.items()
        if (lower := name.lower()) in VISIBLE
        or (lower.startswith(VISIBLE_PREFIX) and SENDABLE.fullmatch(lower))
        or lower == "cache-control"
    }
    if not lower.get("content-type", "").startswith(EVENT_STREAM):
        lower.pop("cache-control", None)
    visible = [
        (name, value) for name, value in lower.items() if len(value) <= MAX_VALUE_CHARS and SENDABLE.fullmatch(value)
    ]
    return dict(visible[:MAX_VISIBLE_HEADERS])


def pause_of(status: int, headers: Mapping[str, str]) -> dict[str, str]:
    """How long a target that refuses asks to be left alone, in seconds, whatever form it was told in; else nothing.

    A date counts from the target's own, which clients do not see, so it is read here.
    """
    told = {name: headers[name] for name in NAMES if name in headers} if status in PAUSES else {}
    pause = retry_after_of(told)
    return {} if pause is None else {"retry-after": f"{pause:g}"}


def _as_bytes(value: str) -> str:
    """A value that aiohttp read as UTF-8, in Latin-1, which says the same bytes."""
    return value.encode("utf-8", "surrogateescape").decode("latin-1")
