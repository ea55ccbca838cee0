"""A GGUF file whose quantised matrices are read as 16-bit numbers: expanded as they are read, in threads.

BF16 and not F16: it has float32's range, so no weight and no activation of any model overflows, and cuBLAS gives its
products in float32 without another pass. Its 8 significant bits are what llama.cpp keeps of an activation beside
quantised weights too.
"""

import bisect
import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handler.engine.llama.expanded_header import TensorPlace, expanded_header
from handler.engine.llama.ggml import BF16_BYTES, to_bf16
from handler.errors import ModelError

CHUNK = 1 << 17  # weights: as float32 they stay in a core's cache; a multiple of every type's block
PIECE = 8 * CHUNK  # weights a thread expands at a time
PIECE_BYTES = PIECE * BF16_BYTES
SMALL = 1 << 16  # bytes: less is expanded at once, by the thread that reads
AHEAD = 3  # pieces for each thread, expanded before they are asked for

Bytes = npt.NDArray[np.uint8]


class ExpandedFile:
    """A `ByteSource`. Owns the files' descriptors and the threads. Read by one thread, each tensor from its beginning:
    what follows is expanded ahead, within the tensor. Knows nothing of what the tensors are for."""

    def __init__(self, paths: Sequence[Path], num_threads: int) -> None:
        """Of a model in these files, in their order. Raises ModelError for files that cannot be read."""
        self._header = expanded_header(paths)
        self.size = self._header.size  # bytes
        self.num_expanded = sum(place.type is not None for place in self._header.tensors)
        self._begins = [place.begin for place in self._header.tensors]
        self._files: list[int] = []
        try:
            self._files.extend(os.open(path, os.O_RDONLY) for path in paths)
        except OSError as error:
            raise ModelError(f"{error.filename} cannot be read: {error.strerror}.") from error
        self._pool = ThreadPoolExecutor(num_threads, "expand")
        self._num_ahead = AHEAD * num_threads
        self._ahead: dict[tuple[int, int], Future[Bytes]] = {}  # by tensor and piece

    def read_into(self, address: int, position: int, num_bytes: int) -> int:
        """Up to `num_bytes`, but no more than to the end of a tensor; how many were read, 0 at the end of the file.

        Raises OSError.
        """
        index = bisect.bisect_right(self._begins, position) - 1
        if index < 0:
            return _copy(address, np.frombuffer(self._header.data, np.uint8)[position : position + num_bytes])
        place = self._header.tensors[index]
        if position >= place.end:
            return self._read_padding(index, address, position, num_bytes)
        num_bytes = min(num_bytes, place.end - position)
        if place.type is None:
            return self._read_raw(place, address, position, num_bytes)
        first = position - place.begin
        if num_bytes <= SMALL:
            return _copy(address, self._expand_range(place, first, num_bytes))
        piece = self._take_piece(index, first // PIECE_BYTES)
        return _copy(address, piece[first % PIECE_BYTES :][:num_bytes])

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for file in self._files:
            os.close(file)

    def _read_padding(self, index: int, address: int, position: int, num_bytes: int) -> int:
        """Zeros, between two tensors or behind the last."""
        end = self._begins[index + 1] if index + 1 < len(self._begins) else self.size
        return _copy(address, np.zeros(max(0, min(num_bytes, end - position)), np.uint8))

    def _read_raw(self, place: TensorPlace, address: int, position: int, num_bytes: int) -> int:
        target = (ctypes.c_ubyte * num_bytes).from_address(address)
        return self._read(place, memoryview(target).cast("B"), position - place.begin)

    def _read(self, place: TensorPlace, target: memoryview, offset: int) -> int:
        """Bytes of a tensor in its file. Raises OSError where the file has become shorter."""
        if num_read := os.preadv(self._files[place.part], [target], place.offset + offset):
            return num_read
        raise OSError("the file ends within a tensor")

    def _take_piece(self, index: int, number: int) -> Bytes:
        """Of a tensor, with the pieces behind it on their way; all others are forgotten."""
        place = self._header.tensors[index]
        last = (place.end - place.begin - 1) // PIECE_BYTES
        wanted = range(number, min(number + self._num_ahead, last) + 1)
        known = self._ahead
        self._ahead = {
            (index, each): known.get((index, each)) or self._pool.submit(self._expand_piece, place, each)
            for each in wanted
        }
        for key in known.keys() - self._ahead.keys():
            known[key].cancel()
        return self._ahead[index, number].result()

    def _expand_piece(self, place: TensorPlace, number: int) -> Bytes:
        first = number * PIECE_BYTES
        return self._expand_range(place, first, min(PIECE_BYTES, place.end - place.begin - first))

    def _expand_range(self, place: TensorPlace, first: int, num_bytes: int) -> Bytes:
        """Bytes of the expanded tensor, from those blocks of the file's that have them."""
        kind = place.type
        assert kind is not None, "a tensor that is expanded"
        begin = first // BF16_BYTES // kind.block_weights
        end = -(-(first + num_bytes) // BF16_BYTES // kind.block_weights)
        blocks = np.empty((end - begin) * kind.block_bytes, np.uint8)
        self._fill(place, blocks, begin * kind.block_bytes)
        num_weights = (end - begin) * kind.block_weights
        weights, expanded = np.empty(min(CHUNK, num_weights), np.float32), np.empty(num_weights, np.uint16)
        source, between, target = (array.ctypes.data for array in (blocks, weights, expanded))
        for start in range(0, num_weights, CHUNK):
            count = min(CHUNK, num_weights - start)
            kind.to_float(source + start // kind.block_weights * kind.block_bytes, between, count)
            to_bf16(between, target + start * BF16_BYTES, count)
        return expanded.view(np.uint8)[first - begin * kind.block_weights * BF16_BYTES :][:num_bytes]

    def _fill(self, place: TensorPlace, blocks: Bytes, offset: int) -> None:
        target = blocks.data
        while target:
            num_read = self._read(place, target, offset)
            target, offset = target[num_read:], offset + num_read


def _copy(address: int, data: Bytes) -> int:
    ctypes.memmove(address, data.ctypes.data, data.nbytes)
    return data.nbytes
