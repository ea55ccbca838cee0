"""Reading a request: its headers and its body, each within limits."""

import asyncio
import hashlib
from collections.abc import Iterable
from urllib.parse import unquote

from starlette.types import Receive

from local_gateway.errors import (
    InvalidRequestError,
    PayloadTooLargeError,
    RequestTimeoutError,
    UnsupportedMediaError,
)
from local_gateway.wire.content_coding import CODINGS, ContentCodingError, ContentDecoder, DecodedTooLargeError

Headers = Iterable[tuple[bytes, bytes]]

# What a target may see of a client. Everything else stays here: keys, cookies, addresses.
FORWARDED = frozenset(
    {b"openai-beta", b"anthropic-version", b"anthropic-beta", b"idempotency-key"}
    | {b"traceparent", b"tracestate", b"accept"}
)
LARGE_BYTES = 256_000  # a body from here on is decoded and parsed off the event loop
# What Open WebUI says of its user, where it is told to; the first that is there counts.
USER_HEADERS = (b"x-openwebui-user-email", b"x-openwebui-user-id", b"x-openwebui-user-name")
MAX_USER = 200  # characters
ENCODINGS = "gzip, deflate, br and zstd"
WEBSOCKETS = (
    "Websockets are not served here: post to /v1/responses or /v1/chat/completions, with stream: true for events."
)


class ClientLeftError(Exception):
    """The client hung up: there is no one to answer."""


def refuse_websocket(headers: Headers) -> None:
    """Raises InvalidRequestError in words, where a client would else read a puzzling 404."""
    if any(name == b"upgrade" and value.strip().lower() == b"websocket" for name, value in headers):
        raise InvalidRequestError(WEBSOCKETS, code="websocket_not_supported")


def header(headers: Headers, name: bytes) -> str:
    """Its value; empty if it is missing. Raises InvalidRequestError if it came more than once."""
    values = [value for key, value in headers if key == name]
    if len(values) > 1:
        raise InvalidRequestError(f"The header {name.decode()} came more than once.")
    return values[0].decode("latin-1").strip() if values else ""


def forwarded_headers(headers: Headers) -> dict[str, str]:
    named = {name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")}
    return {
        key.decode("latin-1"): value.decode("latin-1")
        for key, value in headers
        if key in FORWARDED and key not in named
    }


def keys_own(value: str, key_id: str) -> str:
    """A client's idempotency key as targets see it: all keys share one account there, and must not meet in it."""
    return hashlib.sha256(f"{key_id}\0{value}".encode("utf-8", "surrogateescape")).hexdigest()


def end_user_of(headers: Headers) -> str:
    """The person behind a chat application's key, as its headers say; empty if they do not."""
    named = {name: value for name, value in headers if name in USER_HEADERS}
    if not named:
        return ""
    found = next((named[name] for name in USER_HEADERS if named.get(name)), b"")
    return unquote(found.decode("utf-8", "replace")).strip()[:MAX_USER]


async def read_body(headers: Headers, receive: Receive, *, max_bytes: int, timeout: float) -> bytes:  # noqa: ASYNC109 (one limit for all of it)
    """All of it, decompressed. Raises a RequestError if it is too large or late, ClientLeftError if it breaks off."""
    encoding = header(headers, b"content-encoding").lower()
    length = header(headers, b"content-length")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout):
            raw = await _read(receive, max_bytes)
    except TimeoutError:
        raise RequestTimeoutError("The body of the request did not arrive in time.") from None
    if encoding in ("", "identity"):
        return raw
    return await asyncio.to_thread(decode, raw, encoding, max_bytes)


def decode(raw: bytes, encoding: str, max_bytes: int) -> bytes:
    """The decompressed body. `encoding` is one of CODINGS, in lower case: clients do not put one into another.

    Raises UnsupportedMediaError for any other encoding, PayloadTooLargeError for more than `max_bytes` decoded bytes,
    InvalidRequestError for data that is damaged, cut off, or followed by more.
    """
    if encoding not in CODINGS:
        raise UnsupportedMediaError(f"Request bodies may be compressed with {ENCODINGS}, one of them at a time.")
    decoder = ContentDecoder(encoding, max_bytes)
    try:
        decoded = b"".join(decoder.feed(raw))
        decoder.end()
    except DecodedTooLargeError:
        raise PayloadTooLargeError(
            f"The body of the request is larger than {max_bytes} bytes when it is decompressed."
        ) from None
    except ContentCodingError as error:
        raise InvalidRequestError(f"The body of the request cannot be decoded from {encoding}: {error}.") from None
    if decoder.has_padding:
        raise InvalidRequestError(f"The {encoding} body of the request is followed by other bytes.")
    return decoded


async def _read(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    num_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        part = message.get("body", b"")
        num_bytes += len(part)
        if num_bytes > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The body of the request is larger than {max_bytes} bytes.")
