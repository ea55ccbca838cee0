"""A request's body: read with a limit, decoded with a limit, parsed off the event loop where it is large.

Knows nothing of what the body means. Its time is `limits`'s business.
"""

import asyncio
import json
import zlib
from typing import NoReturn

from starlette.requests import Request

from handler.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedMediaTypeError

MAX_DRAINED_BYTES = 64_000_000  # read of a body that is too large, so that its sender comes to read our answer
MAX_PARSED_ON_LOOP = 65_536  # bytes: about a millisecond
ENCODINGS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}  # zlib's window bits


async def read_json(request: Request, max_bytes: int) -> object:
    """The decoded JSON of a body of at most `max_bytes`, compressed or not.

    Raises PayloadTooLargeError, UnsupportedMediaTypeError, InvalidRequestError, and ClientDisconnect.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", *ENCODINGS):
        raise UnsupportedMediaTypeError(
            f"The request body is encoded as {encoding[:40]!r}: send it plain, or as gzip or deflate."
        )
    body = await _read(request, max_bytes)
    if len(body) <= MAX_PARSED_ON_LOOP and encoding not in ENCODINGS:
        return _parse(body)
    return await asyncio.to_thread(lambda: _parse(_decode(body, encoding, max_bytes)))


async def _read(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    num_bytes = 0
    async for part in request.stream():
        num_bytes += len(part)
        if num_bytes <= max_bytes:
            body += part
        elif num_bytes > MAX_DRAINED_BYTES:
            break
    if num_bytes > max_bytes:
        raise _too_large(max_bytes)
    return bytes(body)


def _decode(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress no further than to the limit: a bomb costs what an honest body of that size does."""
    if encoding not in ENCODINGS:
        return body
    decompressor = zlib.decompressobj(ENCODINGS[encoding])
    try:
        plain = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"The request body is not valid {encoding}: {error}.") from error
    if len(plain) > max_bytes:
        raise _too_large(max_bytes)
    if not decompressor.eof:
        raise InvalidRequestError(f"The request body is not valid {encoding}: it is cut off.")
    return plain


def _parse(body: bytes) -> object:
    try:
        return json.loads(body, parse_constant=_refuse_constant, parse_float=_parse_float)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The request body is not valid JSON: {error}.") from error


def _parse_float(text: str) -> float:
    """Finite, or an error: 1e999 is none of the numbers that an answer could be asked for."""
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The request body is larger than {max_bytes} bytes.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
