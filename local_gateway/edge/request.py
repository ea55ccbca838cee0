"""Reading a request: its headers, its path, its body, each within limits."""

import asyncio
import re
from collections.abc import Iterable

from starlette.types import Receive, Scope

from local_gateway.errors import (
    InvalidRequestError,
    MethodNotAllowedError,
    PayloadTooLargeError,
    RequestTimeoutError,
    RouteNotFoundError,
    UnsupportedMediaError,
)

Headers = Iterable[tuple[bytes, bytes]]

PATH = re.compile(r"(?:/[A-Za-z0-9_.:@~+-]+)+")
# What a target may see of a client. Everything else stays here: keys, cookies, addresses.
FORWARDED = ("openai-beta", "idempotency-key", "traceparent", "tracestate", "accept")
UNENCODED = ("", "identity")
METHODS = ("GET", "HEAD", "POST", "DELETE")  # that OpenAI's API has
# Their answers come from a model: they are posted, and name it.
MODEL_PATHS = ("/chat/completions", "/completions", "/embeddings", "/responses")


class ClientLeftError(Exception):
    """The client hung up: nobody is there to be answered."""


def api_path(scope: Scope) -> str:
    """The path within OpenAI's API, without /v1 and without a slash at its end. Raises RouteNotFoundError."""
    path: str = scope["path"].rstrip("/")
    if path == "/v1" or path.startswith("/v1/"):
        path = path[3:]
    if not PATH.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
        raise RouteNotFoundError("There is nothing at this address.")
    return path


def api_method(scope: Scope, path: str) -> str:
    """Raises MethodNotAllowedError."""
    method: str = scope["method"]
    allowed = ("POST",) if path in MODEL_PATHS else METHODS
    if method not in allowed:
        raise MethodNotAllowedError(method, allowed)
    return method


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
        if key.decode("latin-1") in FORWARDED and key not in named
    }


async def read_body(headers: Headers, receive: Receive, *, max_bytes: int, timeout: float) -> bytes:  # noqa: ASYNC109 (one limit for all of it)
    """All of it. Raises a RequestError if it is too large, too late or compressed, ClientLeftError if it breaks off."""
    if header(headers, b"content-encoding").lower() not in UNENCODED:
        raise UnsupportedMediaError("Compressed request bodies are not accepted.")
    length = header(headers, b"content-length")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout):
            return await _read(receive, max_bytes)
    except TimeoutError:
        raise RequestTimeoutError("The body of the request did not arrive in time.") from None


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
