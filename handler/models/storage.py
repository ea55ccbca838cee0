"""Put a GGUF file into a directory so that it is there whole or not at all, also where several processes want it.

While a file is on its way there lie beside its place: `NAME.part`, what has arrived; `NAME.part.etag`, which version of
the server's file that is; and `NAME.lock`, held by the one process that writes. The lock file stays: deleting it would
let a second process lock a new one while the first still holds the old.

Knows nothing about where the bytes come from.
"""

import errno
import fcntl
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from handler.errors import ModelError
from handler.models.gguf import check_gguf
from handler.progress import readable

READ_BYTES = 1 << 20

log = logging.getLogger(__name__)


class Digest:
    """The sha256 of a file that grows, of as much as is there: a large one is not read again for it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._num_bytes = 0

    def begin(self, part: Path, num_bytes: int) -> None:
        """The file has so many bytes, and grows by what `update` is told from now on."""
        if num_bytes < self._num_bytes:
            self.__init__()  # type: ignore[misc]  # it began anew
        with part.open("rb") as file:
            file.seek(self._num_bytes)
            while self._num_bytes < num_bytes and (data := file.read(min(READ_BYTES, num_bytes - self._num_bytes))):
                self.update(data)

    def update(self, data: bytes) -> None:
        self._hash.update(data)
        self._num_bytes += len(data)

    def of(self, part: Path) -> str:
        """Of all of the file, as hexadecimal digits."""
        self.begin(part, num_bytes_of(part))
        return self._hash.hexdigest()


def store(target: Path, sha256: str | None, write: Callable[[Path], Digest | None]) -> None:
    """Let `write` fill a temporary file, check that, and rename it to `target`. Other processes wait and then use it.

    It may return the digest of what it wrote. What it leaves behind when it fails or is killed is there when it is
    called again.
    """
    with _write_errors_explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_writer(target):
            if target.exists():
                return
            part = part_of(target)
            digest = write(part)
            _check(part, sha256, digest or Digest())
            part.rename(target)
            discard(part)  # what is left of it: its ETag


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def etag_of(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    etag_of(part).unlink(missing_ok=True)


def num_bytes_of(path: Path) -> int:
    """0 for a file that does not exist."""
    return path.stat().st_size if path.exists() else 0


def require_space(directory: Path, num_bytes: int) -> None:
    """Raise ModelError unless `num_bytes` more fit. The directory need not exist yet."""
    while not directory.exists():
        directory = directory.parent
    num_free = shutil.disk_usage(directory).free
    if num_bytes > num_free:
        raise ModelError(
            f"No space for the model in {directory}: {readable(num_bytes)} are to come and {readable(num_free)} are "
            "free. Free some, or set MODELS_DIR to a larger disk."
        )


@contextmanager
def _write_errors_explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"No space left in {directory}: free some, or set MODELS_DIR to a larger disk.") from error
        raise ModelError(
            f"Cannot write to {directory} ({error.strerror}): make it writable, or set MODELS_DIR to another directory."
        ) from error


@contextmanager
def _only_writer(target: Path) -> Iterator[None]:
    """Hold the file's lock. The system takes it back from a process that is killed."""
    with target.with_name(target.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is fetching %s; waiting for it", target.name)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check(part: Path, sha256: str | None, digest: Digest) -> None:
    """Raise ModelError if the bytes are wrong, and discard them, so that the next try starts afresh."""
    try:
        check_gguf(part)
        if sha256:
            _check_sha256(part, sha256, digest.of(part))
    except ModelError as error:
        discard(part)
        raise ModelError(f"{error} It was just downloaded and is deleted again: check MODEL, then try again.") from None


def _check_sha256(part: Path, expected: str, actual: str) -> None:
    if actual != expected:
        raise ModelError(f"{part} has sha256 {actual} instead of {expected}.")
