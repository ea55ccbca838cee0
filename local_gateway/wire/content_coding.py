"""Compressed bodies of requests and answers, decoded piece by piece with a limit: gzip, deflate, br and zstd.

One coding may be in another.

No piece that comes out is large, whatever its source expands to, so a bomb costs time up to the limit and no memory.
"""

import sys
import zlib
from collections.abc import Iterator
from typing import Protocol

import brotli

from local_gateway.errors import GatewayError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 64 * 1024
MAX_LAYERS = 3
MAX_WINDOW_LOG = 23  # 8 MB, which every decoder must take
ZLIB_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
# What servers write there that is no compression: the encoding of characters, or nothing.
NO_CODINGS = ("", "identity", "none", "utf-8", "utf8", "binary", "8bit", "7bit", "aws-chunked")
# How the data of a coding begins, where it says so.
MAGIC = {"gzip": b"\x1f", "x-gzip": b"\x1f", "zstd": b"\x28\xb5\x2f\xfd"}
CODINGS = ("gzip", "x-gzip", "deflate", "br", "zstd")


class ContentCodingError(GatewayError):
    """The body cannot be decoded: an unknown coding, damaged or cut data, or more than the limit."""


class DecodedTooLargeError(ContentCodingError):
    """The decoded body is over the limit; what came out before is within it."""


class _Coding(Protocol):
    """One layer. Both raise ContentCodingError or the library's own error."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` decodes to, in pieces of at most PIECE_BYTES."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the data may end here."""
        ...

    @property
    def has_padding(self) -> bool:
        """Whether bytes after the end of the data were left out."""
        ...


class ContentDecoder:
    """One body. `encoding` is the value of Content-Encoding; with "" or "identity" everything passes as it is.

    Raises ContentCodingError for a coding that is not known, when made; for damaged data and for more than `max_bytes`
    decoded bytes, when fed; and for data that was cut off, at the end.
    """

    def __init__(self, encoding: str, max_bytes: int, *, believes_data: bool = False) -> None:
        """`believes_data`: what is called compressed and is not goes as it is, as from a proxy that decompressed it."""
        names = [name for each in encoding.split(",") if (name := each.strip().lower()) not in NO_CODINGS]
        if len(names) > MAX_LAYERS:
            raise ContentCodingError("it is compressed too many times")
        self._layers = [_coding_of(name) for name in reversed(names)]
        self._magic = MAGIC.get(names[0]) if believes_data and len(names) == 1 else None
        self._max_bytes = max_bytes
        self._num_bytes = 0

    @property
    def is_identity(self) -> bool:
        return not self._layers

    @property
    def has_padding(self) -> bool:
        """Whether bytes after the end of the data were left out: servers pad, a request has no reason to."""
        return any(layer.has_padding for layer in self._layers)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The next bytes of the body, decoded as far as they go."""
        if self._magic and data:
            self._layers = self._layers if data[0] == self._magic[0] else []
            self._magic = None
        try:
            for piece in _through(self._layers, data):
                self._num_bytes += len(piece)
                if self._num_bytes > self._max_bytes:
                    raise DecodedTooLargeError(f"it has more than {self._max_bytes} bytes when decoded")
                yield piece
        except (zlib.error, brotli.error, zstd.ZstdError, EOFError) as error:
            raise ContentCodingError("its compressed data is damaged") from error

    def end(self) -> None:
        """The body is over."""
        if not all(layer.is_complete for layer in self._layers):
            raise ContentCodingError("its compressed data was cut off")


def _through(layers: list[_Coding], data: bytes) -> Iterator[bytes]:
    if not layers:
        if data:
            yield data
        return
    for piece in layers[0].feed(data):
        yield from _through(layers[1:], piece)


def _coding_of(name: str) -> _Coding:
    if name in ZLIB_WINDOWS:
        return _Zlib(ZLIB_WINDOWS[name])
    if name == "br":
        return _Brotli()
    if name == "zstd":
        return _Zstd()
    raise ContentCodingError(f"its content encoding {name[:40]!r} is not known")


class _Zlib:
    """gzip, also of several members, and deflate, with zlib's header or (as some servers send it) without."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._decoder = zlib.decompressobj(window)
        self._has_begun = False
        self.has_padding = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._decoder.eof:
                if not (self._window > zlib.MAX_WBITS and data.startswith(b"\x1f")):
                    self.has_padding = True
                    return
                self._decoder = zlib.decompressobj(self._window)
            yield from filter(None, [self._decode(data)])
            data = self._decoder.unconsumed_tail or self._decoder.unused_data

    def _decode(self, data: bytes) -> bytes:
        try:
            decoded = self._decoder.decompress(data, PIECE_BYTES)
        except zlib.error:
            if self._has_begun or self._window != zlib.MAX_WBITS:
                raise
            self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)
            decoded = self._decoder.decompress(data, PIECE_BYTES)
        self._has_begun = True
        return decoded

    @property
    def is_complete(self) -> bool:
        return self._decoder.eof


class _Brotli:
    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()
        self.has_padding = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._decoder.is_finished():
            self.has_padding = self.has_padding or bool(data)
            return
        decoded = self._decoder.process(data, output_buffer_limit=PIECE_BYTES)
        while decoded:  # a limit that it may pass by half
            yield from (decoded[at : at + PIECE_BYTES] for at in range(0, len(decoded), PIECE_BYTES))
            decoded = self._decoder.process(b"", output_buffer_limit=PIECE_BYTES)

    @property
    def is_complete(self) -> bool:
        return bool(self._decoder.is_finished())


def _zstd_decoder() -> zstd.ZstdDecompressor:
    """Its window is bounded, whatever the head of a frame asks for."""
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})


class _Zstd:
    """Also of several frames. Padding would be a damaged frame."""

    has_padding = False

    def __init__(self) -> None:
        self._decoder = _zstd_decoder()

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data or not (self._decoder.eof or self._decoder.needs_input):
            if self._decoder.eof:
                self._decoder = _zstd_decoder()
            yield from filter(None, [self._decoder.decompress(data, PIECE_BYTES)])
            data = self._decoder.unused_data if self._decoder.eof else b""

    @property
    def is_complete(self) -> bool:
        return self._decoder.eof
