"""Files into the page cache, by several threads, ahead of the one that loads them.

A mapped file is read from its beginning to its end by one thread, which waits for each piece. A disk of a host may not
mind; a network volume answers many reads at once as soon as one.
"""

import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

NUM_THREADS = 8
CHUNK = 4 << 20  # bytes that are read at once
NUM_PROBES = 64


class Chunk(NamedTuple):
    """Bytes of one of the files."""

    file: int  # its descriptor
    offset: int
    num_bytes: int


class ReadAhead:
    """A context in which the files are loaded. Owns descriptors and threads, which end with it at the latest.

    Chunks that are in the page cache are passed over. What cannot be read is left to the loader, which says why.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[Chunk, memoryview], None] | None = None) -> None:
        """`read` reads a chunk, if it is not there, by way of a buffer of its size. Raises OSError."""
        self._read = read or read_cold
        self._files = [os.open(path, os.O_RDONLY) for path in paths]
        self._chunks = self._all_chunks()
        self._next = threading.Lock()
        self._is_over = False
        self._threads = [threading.Thread(target=self._run, name="read-ahead", daemon=True) for _ in range(NUM_THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join()  # the chunk that it is at
        for file in self._files:
            os.close(file)

    def _all_chunks(self) -> Iterator[Chunk]:
        for file in self._files:
            size = os.fstat(file).st_size
            yield from (Chunk(file, start, min(CHUNK, size - start)) for start in range(0, size, CHUNK))

    def _run(self) -> None:
        buffer = memoryview(mmap.mmap(-1, CHUNK))
        while not self._is_over:
            with self._next:
                chunk = next(self._chunks, None)
            if chunk is None:
                return
            try:
                self._read(chunk, buffer)
            except OSError:
                return


def is_cold(path: Path) -> bool:
    """Whether not all of some bytes of the file, evenly apart, are in the page cache. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        probe = memoryview(bytearray(1))
        try:
            for number in range(NUM_PROBES):
                os.preadv(file.fileno(), [probe], size * number // NUM_PROBES, os.RWF_NOWAIT)
        except OSError:  # it would have to wait, or the file system cannot tell
            return True
    return False


def read_cold(chunk: Chunk, buffer: memoryview) -> None:
    """Read the chunk if its last byte is not in the page cache. Where the file system cannot tell, the kernel is asked
    to read it, without waiting. Raises OSError."""
    end = chunk.offset + chunk.num_bytes
    try:
        os.preadv(chunk.file, [buffer[:1]], end - 1, os.RWF_NOWAIT)
    except BlockingIOError:
        os.preadv(chunk.file, [buffer[: chunk.num_bytes]], chunk.offset)
    except OSError:
        os.posix_fadvise(chunk.file, chunk.offset, chunk.num_bytes, os.POSIX_FADV_WILLNEED)
