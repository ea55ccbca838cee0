"""Compressed bodies: decoded in small pieces, within a limit, or an error."""

import gzip
import random
import sys
import zlib
from collections.abc import Callable

import brotli
import pytest

from local_gateway.wire.content_coding import PIECE_BYTES, ContentCodingError, ContentDecoder

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PLAIN = random.Random(1).randbytes(200_000) + b"text " * 100_000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip of members": ("GZIP", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd.compress),
    "zstd of frames": ("zstd", lambda data: zstd.compress(data[:7]) + zstd.compress(data[7:])),
    "two layers": ("gzip, zstd", lambda data: zstd.compress(gzip.compress(data))),
    "none": ("identity", bytes),
}


@pytest.mark.parametrize("name", ["none", "UTF-8", "binary", "aws-chunked", "identity, utf-8", ""])
def test_names_of_no_compression(name: str) -> None:
    """gateway.md B15: some servers write the encoding of characters there, or that there is none."""
    assert ContentDecoder(name, 100).is_identity


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "zstd"])
@pytest.mark.parametrize("data", [b'{"a": 1}', b"data: {}\n\n", b""])
def test_what_is_only_called_compressed(encoding: str, data: bytes) -> None:
    """gateway.md B15: a target behind a proxy that decompresses is believed by its data; a client is not."""
    decoder = ContentDecoder(encoding, 100, believes_data=True)
    assert b"".join(part for byte in data for part in decoder.feed(bytes([byte]))) == data
    if data:
        decoder.end()
        with pytest.raises(ContentCodingError):
            list(ContentDecoder(encoding, 100).feed(data))
    else:
        with pytest.raises(ContentCodingError):
            decoder.end()


def decoded(encoding: str, data: bytes, size: int, max_bytes: int = 10_000_000) -> list[bytes]:
    decoder = ContentDecoder(encoding, max_bytes)
    pieces = [piece for at in range(0, len(data), size) for piece in decoder.feed(data[at : at + size])]
    decoder.end()
    return pieces


@pytest.mark.parametrize("size", [997, 10_000_000])
@pytest.mark.parametrize("kind", PACKERS)
def test_decoded(kind: str, size: int) -> None:
    """gateway.md B15: in whatever pieces it comes."""
    encoding, pack = PACKERS[kind]
    pieces = decoded(encoding, pack(PLAIN), size)

    assert b"".join(pieces) == PLAIN
    assert kind == "none" or max(map(len, pieces)) <= PIECE_BYTES


@pytest.mark.parametrize("kind", [kind for kind in PACKERS if kind != "none"])
def test_cut_off(kind: str) -> None:
    """Half of it is never called complete."""
    encoding, pack = PACKERS[kind]
    with pytest.raises(ContentCodingError):
        decoded(encoding, pack(PLAIN)[:-10], 1000)


@pytest.mark.parametrize("kind", [kind for kind in PACKERS if kind != "none"])
def test_bomb(kind: str) -> None:
    """Refused at the limit, in pieces that never become large."""
    encoding, pack = PACKERS[kind]
    with pytest.raises(ContentCodingError, match="more than 1000000 bytes"):
        decoded(encoding, pack(bytes(3_000_000)), 10_000, max_bytes=1_000_000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_damaged(encoding: str) -> None:
    """What is not compressed at all, for example."""
    with pytest.raises(ContentCodingError):
        decoded(encoding, b'{"choices": []}' * 100, 1000)


@pytest.mark.parametrize("encoding", ["compress", "gzip, gzip, gzip, gzip"])
def test_unknown(encoding: str) -> None:
    """A coding that is not known, or layers without end."""
    with pytest.raises(ContentCodingError):
        ContentDecoder(encoding, 1)
