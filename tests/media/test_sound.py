"""Which sounds are given to what decodes them, and that their headers tell the truth."""

import struct

import pytest

from handler.errors import InvalidRequestError
from handler.media.sound import checked_wav
from tests.tiny_hearing import wav

SOUND = wav(1, 0.5)
SAMPLES = SOUND[44:]


def riff(*chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(content)) + content for name, content in chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def form(
    kind: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16, more: bytes = b""
) -> tuple[bytes, bytes]:
    frame = channels * bits // 8
    return b"fmt ", struct.pack("<HHIIHH", kind, channels, rate, rate * frame & 0xFFFFFFFF, frame & 0xFFFF, bits) + more


def test_a_plain_one_stays_as_it_is() -> None:
    """Byte by byte."""
    assert checked_wav(SOUND, 60) == SOUND


@pytest.mark.parametrize(
    "data",
    [
        riff(form(), (b"LIST", b"INFO"), (b"data", SAMPLES)),
        riff(form(), (b"data", SAMPLES), (b"LIST", b"INFO")),
        riff(form(more=b"\0\0"), (b"data", SAMPLES)),
        riff(form(0xFFFE, more=struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)), (b"data", SAMPLES)),
        SOUND[:40] + b"\xff\xff\xff\xff" + SAMPLES,
        SOUND[:4] + b"\xff\xff\xff\xff" + SOUND[8:],
        SOUND + b"\0",
    ],
)
def test_other_headers_become_the_plain_one(data: bytes) -> None:
    """Those with more in them, and those of streams, which do not know how long they are."""
    assert checked_wav(data, 60) == SOUND


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        SOUND[:30],
        b"RIFX" + SOUND[4:],
        SOUND[:8] + b"AVI " + SOUND[12:],
        riff((b"data", SAMPLES)),
        riff(form()),
        riff((b"fmt ", b"\1\0"), (b"data", SAMPLES)),
        riff(form(3, bits=32), (b"data", SAMPLES)),
        riff(form(2, bits=4), (b"data", SAMPLES)),
        riff(form(bits=12), (b"data", SAMPLES)),
        riff(form(channels=0), (b"data", SAMPLES)),
        riff(form(channels=9), (b"data", SAMPLES)),
        riff(form(rate=1), (b"data", SAMPLES)),
        riff(form(rate=0xFFFFFFFF), (b"data", SAMPLES)),
        riff(*(2000 * [(b"junk", b"")]), form(), (b"data", SAMPLES)),
        b"ID3" + SOUND,
        b"fLaC" + SOUND,
    ],
)
def test_what_is_refused(data: bytes) -> None:
    """Other formats, compressed samples, floating-point ones, and numbers that no sound has."""
    with pytest.raises(InvalidRequestError, match="not a WAV"):
        checked_wav(data, 60)


@pytest.mark.parametrize("seconds", [0, 0.01, 61])
def test_too_short_or_too_long(seconds: float) -> None:
    """By its samples, whatever the header says."""
    with pytest.raises(InvalidRequestError, match="seconds"):
        checked_wav(wav(1, seconds, 4_000), 60)
