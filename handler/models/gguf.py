"""A look at a GGUF file's header: is it one, and is all of it there?

Walks over the metadata to the list of tensors, because the end of the last tensor says how long the file must be.
Knows the layout of the file, not what the metadata means; llama.cpp reads it for real. Takes 20 ms for a
vocabulary of 150,000 tokens and reads no tensor.

    "GGUF" | version, num_tensors, num_keys | keys and values | name, shape, type, offset per tensor | padding | data
"""

import mmap
import os
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

from handler.errors import ModelError

MAGIC = b"GGUF"
HEAD_BYTES = 16 << 20  # more than most headers have

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_KNOWN_VERSIONS = (2, 3)  # version 1 had other lengths; what comes after 3 is for llama.cpp to judge

_STRING, _ARRAY = 8, 9
MAX_DIMENSIONS = 4  # of a tensor, ggml's limit
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by value type

# Weights are stored in blocks: (weights per block, bytes per block) by tensor type, from ggml's table of type traits.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip


class Tensor(NamedTuple):
    """Where a tensor lies; `offset` counts bytes from the start of the data."""

    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def end(self) -> int:
        """The first byte after it. A type newer than our table counts as empty: better no check than a false alarm."""
        num_weights, num_bytes = BLOCKS.get(self.type, (1, 0))
        return self.offset + prod(self.shape) // num_weights * num_bytes


def check_gguf(path: Path) -> None:
    """Raise ModelError unless `path` is a GGUF file that holds all of its tensors."""
    try:
        _check(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error


def data_start(data: bytes) -> int | None:
    """Where the tensors' bytes begin, in a file that begins with these bytes: beyond them if the header does not end
    in them. None for what is no GGUF file of a known version."""
    header = _Header(data)
    try:
        return header.skip_all() if data.startswith(MAGIC) and header.u32() in _KNOWN_VERSIONS else None
    except struct.error:
        return len(data) + 1
    except (ArithmeticError, KeyError, ValueError):
        return None


def _check(path: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise ModelError(f"{path} is not a GGUF file: it begins with {magic!r} instead of {MAGIC!r}.")
        num_bytes = path.stat().st_size
        os.posix_fadvise(file.fileno(), 0, HEAD_BYTES, os.POSIX_FADV_WILLNEED)  # else a page fault reads 128 KB
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            num_needed = _num_bytes_needed(data, path)
    if num_bytes < num_needed:
        raise ModelError(f"{path} is truncated: it has {num_bytes:,} bytes of {num_needed:,}.")


def _num_bytes_needed(data: mmap.mmap, path: Path) -> int:
    try:
        return _Header(data).num_bytes_needed()
    except (struct.error, ArithmeticError, KeyError, ValueError) as error:
        raise ModelError(f"{path} has a truncated or damaged header ({len(data):,} bytes in all).") from error


class _Header:
    """Reads forward through a header. Beyond the end of the file it raises struct.error."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data = data
        self.position = len(MAGIC)
        self.alignment = 32  # bytes, unless the metadata says otherwise

    def num_bytes_needed(self) -> int:
        if self.u32() not in _KNOWN_VERSIONS:
            return 0
        last = max((tensor.end for tensor in self.tensors()), default=0)
        return self.data_start + last if last else self.position

    def skip_all(self) -> int:
        """From behind the version to where the data begins."""
        for _ in self.tensors():
            pass
        return self.data_start

    def tensors(self) -> Iterator[Tensor]:
        """From behind the version to the end of the header."""
        num_tensors, num_keys = self.u64(), self.u64()
        for _ in range(num_keys):
            self.skip_pair()
        for _ in range(num_tensors):
            yield self.tensor()

    @property
    def data_start(self) -> int:
        return -(-self.position // self.alignment) * self.alignment

    def u32(self) -> int:
        (value,) = _U32.unpack_from(self.data, self.position)
        self.position += 4
        return int(value)

    def u64(self) -> int:
        (value,) = _U64.unpack_from(self.data, self.position)
        self.position += 8
        return int(value)

    def string(self) -> bytes:
        start = self.position + 8
        self.skip_strings(1)
        return self.data[start : self.position]

    def skip_strings(self, count: int) -> None:
        """The one hot loop: a vocabulary and its merges are some 300,000 strings."""
        data, position, unpack = self.data, self.position, _U64.unpack_from
        for _ in range(count):
            position += 8 + unpack(data, position)[0]
        self.position = position

    def skip_pair(self) -> None:
        key, kind = self.string(), self.u32()
        if key == b"general.alignment":
            self.alignment = self.u32()
        else:
            kind, count = (self.u32(), self.u64()) if kind == _ARRAY else (kind, 1)
            self.skip_values(kind, count)

    def skip_values(self, kind: int, count: int) -> None:
        """An array of arrays is a KeyError, like any type we do not know; llama.cpp does not read it either."""
        if kind == _STRING:
            self.skip_strings(count)
        else:
            self.position += _SCALAR_BYTES[kind] * count

    def tensor(self) -> Tensor:
        self.skip_strings(1)  # its name
        num_dimensions = self.u32()
        if num_dimensions > MAX_DIMENSIONS:
            raise ArithmeticError(f"a tensor of {num_dimensions} dimensions")
        shape = tuple(self.u64() for _ in range(num_dimensions))
        return Tensor(shape, self.u32(), self.u64())
