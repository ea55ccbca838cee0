"""Files that threads read into the page cache, before the loader comes to them."""

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from handler.models import read_ahead
from handler.models.read_ahead import Chunk, ReadAhead, read_cold

TIMEOUT = 30
CHUNK = 1000


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "CHUNK", CHUNK)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two parts of a model, the second of which ends within a chunk."""
    paths = [tmp_path / "1.gguf", tmp_path / "2.gguf"]
    for path, size in zip(paths, (10 * CHUNK, 5 * CHUNK + 1), strict=True):
        path.write_bytes(bytes(size))
    return paths


class Storage:
    """Slow: a read is done when `answer` is called, or at once."""

    def __init__(self) -> None:
        self.read: list[tuple[int, int]] = []
        self.num_waiting = 0
        self.changed = threading.Condition()
        self.may_answer = False

    def __call__(self, chunk: Chunk, _buffer: memoryview) -> None:
        with self.changed:
            self.num_waiting += 1
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.may_answer, TIMEOUT)
            self.num_waiting -= 1
            self.read.append((chunk.offset, chunk.num_bytes))

    def answer(self) -> None:
        with self.changed:
            self.may_answer = True
            self.changed.notify_all()

    def wait_for(self, num_waiting: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.num_waiting == num_waiting, TIMEOUT)


def test_reads_wait_side_by_side(files: list[Path]) -> None:
    """As many as there are threads, and when the context ends, no more begin."""
    storage = Storage()
    with ReadAhead(files, storage) as reading:
        storage.wait_for(read_ahead.NUM_THREADS)
        reading._is_over = True
        storage.answer()
    assert sorted(storage.read) == [(number * CHUNK, CHUNK) for number in range(read_ahead.NUM_THREADS)]


def test_every_byte_is_read_once(files: list[Path]) -> None:
    """Of all files."""
    storage = Storage()
    storage.answer()
    with ReadAhead(files, storage) as reading:
        for thread in reading._threads:
            thread.join(TIMEOUT)
    expected = [(start, CHUNK) for start in [*range(0, 10 * CHUNK, CHUNK), *range(0, 5 * CHUNK, CHUNK)]]
    assert Counter(storage.read) == Counter([*expected, (5 * CHUNK, 1)])


@pytest.mark.parametrize(
    ("probe", "calls"),
    [
        (None, ["probe"]),
        (BlockingIOError(), ["probe", "read"]),
        (OSError("not supported"), ["probe", "advise"]),
    ],
    ids=["warm", "cold", "unknown"],
)
def test_what_is_there_is_not_read(monkeypatch: pytest.MonkeyPatch, probe: OSError | None, calls: list[str]) -> None:
    """The page cache is asked about the last byte of a chunk."""
    made: list[str] = []

    def preadv(_file: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        made.append("probe" if flags else "read")
        assert (offset, len(buffers[0])) == ((1999, 1) if flags else (1000, 1000))
        if flags and probe:
            raise probe
        return len(buffers[0])

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: made.append("advise"))
    read_cold(Chunk(3, 1000, 1000), memoryview(bytearray(CHUNK)))
    assert made == calls


def test_an_unreadable_file_is_left_to_the_loader(files: list[Path]) -> None:
    """Its error has the reason."""

    def fail(_chunk: Chunk, _buffer: memoryview) -> None:
        raise OSError("broken")

    with ReadAhead(files, fail) as reading:
        for thread in reading._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("missing", "error", "cold"),
    [(None, None, False), (40, BlockingIOError(), True), (0, OSError("not supported"), True)],
    ids=["warm", "cold", "unknown"],
)
def test_some_bytes_tell(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, missing: int | None, error: OSError | None, cold: bool
) -> None:
    """So a warm start has no threads at all."""
    probed: list[int] = []

    def preadv(_file: int, _buffers: list[memoryview], offset: int, _flags: int) -> int:
        probed.append(offset)
        if error and len(probed) - 1 == missing:
            raise error
        return 1

    monkeypatch.setattr(os, "preadv", preadv)
    assert read_ahead.is_cold(files[0]) == cold
    assert max(probed) < 10 * CHUNK
    assert len(set(probed)) == (read_ahead.NUM_PROBES if missing is None else missing + 1)
