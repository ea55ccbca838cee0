"""Bytes of a download that are read while others are still to come."""

import ctypes
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from handler.models.arrival import Arrival, NotArrivingError

CONTENT = bytes(range(100))
TIMEOUT = 30


class Download:
    """Plays the thread that downloads."""

    def __init__(self, part: Path) -> None:
        self.part = part
        self.part.touch()
        self.arrival = Arrival()

    def bring(self, begin: int, end: int, content: bytes = CONTENT) -> None:
        with self.part.open("ab") as file:
            file.write(content[begin:end])
        self.arrival.reach(end)


@pytest.fixture
def download(tmp_path: Path) -> Download:
    return Download(tmp_path / "model.gguf.part")


@pytest.fixture
def reader() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def read(arrival: Arrival, position: int, num_bytes: int) -> bytes:
    buffer = ctypes.create_string_buffer(num_bytes)
    num_read = arrival.read_into(ctypes.addressof(buffer), position, num_bytes)
    return buffer.raw[:num_read]


def test_what_has_arrived_is_read(download: Download) -> None:
    """As much of it as was asked for; at the end nothing."""
    download.arrival.begin(download.part, 100, 0)
    download.bring(0, 40)
    assert read(download.arrival, 10, 20) == CONTENT[10:30]
    assert read(download.arrival, 30, 20) == CONTENT[30:40]
    download.bring(40, 100)
    assert read(download.arrival, 100, 20) == b""
    assert (download.arrival.name, download.arrival.size) == ("model.gguf", 100)


def test_a_reader_waits_for_its_bytes(download: Download, reader: ThreadPoolExecutor) -> None:
    """However they come: at once, or bit by bit."""
    whole: Future[bytes] = reader.submit(download.arrival.read, 1000)
    download.arrival.begin(download.part, 100, 0)
    download.bring(0, 99)
    assert not whole.done()
    download.bring(99, 100)
    assert whole.result(TIMEOUT) == CONTENT


def test_a_resumed_download_is_the_same(download: Download) -> None:
    """What another process, or a broken connection, left behind has arrived."""
    download.part.write_bytes(CONTENT[:30])
    download.arrival.begin(download.part, 100, 30)
    assert read(download.arrival, 0, 100) == CONTENT[:30]
    download.bring(30, 60)
    download.arrival.begin(download.part, 100, 60)
    download.bring(60, 100)
    assert read(download.arrival, 30, 100) == CONTENT[30:]


def test_a_file_is_read_under_its_next_name(download: Download) -> None:
    """Its checks rename it while it is read."""
    download.arrival.begin(download.part, 100, 0)
    download.bring(0, 100)
    download.part.rename(download.part.with_suffix(""))
    download.arrival.finish()
    assert read(download.arrival, 0, 100) == CONTENT


@pytest.mark.parametrize(("num_bytes", "num_arrived"), [(100, 0), (90, 50), (None, 50)])
def test_another_version_is_not_read(
    download: Download, reader: ThreadPoolExecutor, num_bytes: int | None, num_arrived: int
) -> None:
    """A download that begins anew, or whose length changes: a reader that waits is told so, as are all after it."""
    download.arrival.begin(download.part, 100, 0)
    download.bring(0, 50)
    waiting = reader.submit(read, download.arrival, 60, 10)
    download.arrival.begin(download.part, num_bytes, num_arrived)
    with pytest.raises(NotArrivingError):
        waiting.result(TIMEOUT)
    with pytest.raises(NotArrivingError):
        read(download.arrival, 0, 10)


def test_nothing_had_arrived_of_the_other_version(download: Download) -> None:
    """So it is the file's from the beginning, also as another file on the disk."""
    download.arrival.begin(download.part, 90, 0)
    download.part.unlink()
    download.part.touch()
    download.arrival.begin(download.part, 100, 0)
    download.bring(0, 100)
    assert read(download.arrival, 0, 100) == CONTENT


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_download_that_fails_lets_its_reader_go(
    download: Download, reader: ThreadPoolExecutor, has_begun: bool
) -> None:
    """It would wait for ever."""
    if has_begun:
        download.arrival.begin(download.part, 100, 0)
        download.bring(0, 10)
    waiting = reader.submit(download.arrival.read, 100)
    download.arrival.finish()
    with pytest.raises(NotArrivingError):
        waiting.result(TIMEOUT)


def test_without_a_length_nothing_is_read(download: Download) -> None:
    """Where the file ends could not be told from where the connection does."""
    download.arrival.begin(download.part, None, 0)
    download.bring(0, 100)
    with pytest.raises(NotArrivingError):
        _ = download.arrival.size


def test_close_ends_a_download_for_its_reader_alone(download: Download) -> None:
    """The thread that downloads goes on."""
    download.arrival.begin(download.part, 100, 0)
    download.arrival.close()
    download.arrival.begin(download.part, 100, 0)
    download.bring(0, 100)
    with pytest.raises(NotArrivingError):
        read(download.arrival, 0, 1)
