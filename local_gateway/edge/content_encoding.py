"""Compressed request bodies, decoded up to a limit: a small body may claim to be a very large one."""

import sys
import zlib
from collections.abc import Callable

import brotli

from local_gateway.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedMediaError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IDENTITY = ("", "identity")
ENCODINGS = "gzip, deflate, br and zstd"


def decode(raw: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body itself, of one `content-encoding`.

    Raises UnsupportedMediaError for others than gzip, deflate, br and zstd, PayloadTooLargeError, InvalidRequestError.
    """
    encoding = encoding.strip().lower()
    if encoding in IDENTITY:
        return raw
    decoder = DECODERS.get(encoding)
    if decoder is None:
        raise UnsupportedMediaError(f"Request bodies may be compressed with {ENCODINGS}, one of them at a time.")
    try:
        decoded, is_complete = decoder(raw, max_bytes + 1)
    except (zlib.error, brotli.error, zstd.ZstdError, EOFError, MemoryError):
        raise InvalidRequestError(f"The body of the request is not {encoding}, which it says it is.") from None
    if len(decoded) > max_bytes:
        raise PayloadTooLargeError(f"The body of the request is larger than {max_bytes} bytes when it is decompressed.")
    if not is_complete:
        raise InvalidRequestError(f"The {encoding} body of the request has no end.")
    return decoded


def _inflate(raw: bytes, max_bytes: int, bits: int) -> tuple[bytes, bool]:
    decoder = zlib.decompressobj(bits)
    decoded = decoder.decompress(raw, max_bytes)
    return decoded, decoder.eof and not decoder.unused_data


def _gzip(raw: bytes, max_bytes: int) -> tuple[bytes, bool]:
    return _inflate(raw, max_bytes, zlib.MAX_WBITS | 16)


def _deflate(raw: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """With zlib's head, as HTTP says, or bare, as some clients send it."""
    try:
        return _inflate(raw, max_bytes, zlib.MAX_WBITS)
    except zlib.error:
        return _inflate(raw, max_bytes, -zlib.MAX_WBITS)


def _brotli(raw: bytes, max_bytes: int) -> tuple[bytes, bool]:
    decoder = brotli.Decompressor()
    decoded = decoder.process(raw, output_buffer_limit=max_bytes)
    while len(decoded) < max_bytes and not decoder.can_accept_more_data():
        decoded += decoder.process(b"", output_buffer_limit=max_bytes)
    return decoded, decoder.is_finished()


def _zstd(raw: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """One frame. Its window is bounded, whatever its head asks for."""
    decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})
    decoded = decoder.decompress(raw, max_bytes)
    return decoded, decoder.eof and not decoder.unused_data


MAX_WINDOW_LOG = 23  # 8 MB, which every decoder must take
DECODERS: dict[str, Callable[[bytes, int], tuple[bytes, bool]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
