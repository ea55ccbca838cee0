"""A WAV file, checked and written anew with the numbers that are true.

What decodes it would take room for as many samples as its header says that there are, at the rate that it says.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from handler.errors import InvalidRequestError

INTEGERS, EXTENSIBLE = 1, 0xFFFE  # formats of samples; floating-point ones may be no numbers
BITS = (8, 16, 24, 32)
RATES = range(4_000, 192_001)  # samples a second
MIN_SECONDS = 0.1  # less than a window of a spectrum, beyond whose end mtmd would read
MAX_CHANNELS = 8
MAX_CHUNKS = 1000  # before the samples


class _Form(NamedTuple):
    num_channels: int
    rate: int
    bits: int

    @property
    def frame_bytes(self) -> int:
        """Of a sample of all channels."""
        return self.num_channels * self.bits // 8


def checked_wav(data: bytes, max_seconds: int) -> bytes:
    """The same sound with a header of 44 bytes. A file whose length is not written in it, as in streams, ends where it
    ends. Raises InvalidRequestError for other formats, compressed samples, and what is longer."""
    form, samples = _read(data)
    if form is None or samples is None:
        raise InvalidRequestError("The sound is not a WAV of uncompressed whole numbers.")
    samples = samples[: len(samples) // form.frame_bytes * form.frame_bytes]
    seconds = len(samples) / form.frame_bytes / form.rate
    if not MIN_SECONDS <= seconds <= max_seconds:
        raise InvalidRequestError(f"The sound has {seconds:.1f} seconds; {MIN_SECONDS} to {max_seconds} are possible.")
    head = struct.pack(
        "<HHIIHH", INTEGERS, form.num_channels, form.rate, form.rate * form.frame_bytes, form.frame_bytes, form.bits
    )
    body = b"WAVE" + _chunk(b"fmt ", head) + _chunk(b"data", samples)
    return _chunk(b"RIFF", body)


def _read(data: bytes) -> tuple[_Form | None, bytes | None]:
    form = None
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        for name, content in _chunks(data):
            if name == b"fmt ":
                form = _form(content)
            elif name == b"data":
                return form, content
    return form, None


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    for _ in range(MAX_CHUNKS):
        if place + 8 > len(data):
            return
        name, size = struct.unpack_from("<4sI", data, place)
        yield name, data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _form(content: bytes) -> _Form | None:
    if len(content) < 16:
        return None
    kind, num_channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", content)
    if kind == EXTENSIBLE and len(content) >= 26:
        (kind,) = struct.unpack_from("<H", content, 24)
    is_known = kind == INTEGERS and bits in BITS and rate in RATES and 1 <= num_channels <= MAX_CHANNELS
    return _Form(num_channels, rate, bits) if is_known else None


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
