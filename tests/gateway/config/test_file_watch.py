"""Looking at a file until it has changed."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from local_gateway.config import file_watch
from local_gateway.config.file_watch import FileWatch, SettledChanges, signature

TIMEOUT = 20.0  # seconds until a test that hangs fails
A, B, C = (1,), (2,), (3,)


@pytest.mark.parametrize(
    ("looks", "changes"),
    [
        ([A, A, A, A], [1]),
        ([A, A, B, B, B], [1, 3]),
        ([A, A, B, C, C], [1, 4]),
        ([A, B, C, A, B, C], []),
        ([A, A, None, A, A], [1]),
        ([A, A, None, B, B], [1, 4]),
        ([None, None, A, A], [3]),
        ([A, A, B, A, A], [1]),
        ([A, A, B, None, B, B], [1, 5]),
    ],
)
def test_changes_that_are_over(looks: list[tuple[int] | None], changes: list[int]) -> None:
    """One that is followed by another is not over; a file that comes back as it was is none."""
    settled = SettledChanges()

    assert [number for number, found in enumerate(looks) if settled.look(found) == "changed"] == changes


def in_place(path: Path) -> None:
    """With the same length, and the time of the write set back, as some copying tools do."""
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def by_another(path: Path) -> None:
    new = path.with_name("new")
    new.write_text("two")
    new.replace(path)


def as_a_config_map(path: Path) -> None:
    """The file is a link through a link to a folder, and only the second link is exchanged."""
    (path.parent / "v2").mkdir()
    (path.parent / "v2" / path.name).write_text("two")
    new = path.with_name("..new")
    new.symlink_to("v2")
    new.replace(path.with_name("..data"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "gateway.yaml").write_text("one")
    (tmp_path / "..data").symlink_to("v1")
    path = tmp_path / "gateway.yaml"
    path.symlink_to("..data/gateway.yaml")
    return path


@pytest.mark.parametrize("change", [in_place, by_another, as_a_config_map])
def test_each_change_is_told(path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look tells too; then nothing, until the file is another one or was written."""
    monkeypatch.setattr(file_watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(file_watch, "QUIET_SECONDS", 0.01)
    told = threading.Semaphore(0)
    watch = FileWatch(path, told.release)
    watch.start()
    try:
        assert told.acquire(timeout=TIMEOUT)
        change(path)
        assert told.acquire(timeout=TIMEOUT)
    finally:
        watch.stop()


def test_other_files_of_the_folder_are_not_looked_at(path: Path) -> None:
    """Such as a database beside it."""
    before = signature(path)

    (path.parent / "gateway.db-wal").write_text("x" * 100_000)
    (path.parent / "v1" / "other.yaml").write_text("x")

    assert signature(path) == before


@pytest.mark.parametrize("name", ["nothing", "nothing/at/all", "gateway.yaml/below", "x" * 5000])
def test_no_file(path: Path, name: str) -> None:
    """Is waited for."""
    assert signature(path.parent / name) is None


def test_a_look_that_hangs_keeps_no_process() -> None:
    """As one at a dead network mount does."""
    assert FileWatch(Path("x"), lambda: None)._thread.daemon
