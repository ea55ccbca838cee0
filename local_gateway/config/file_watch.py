"""Tells when a file has changed, by looking at it once a second.

A folder's events would tell sooner, but of every file in it: a database beside gateway.yaml has some for each request.
They also do not exist on network and FUSE mounts, and follow no link from a config map to its next version.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

LOOK_SECONDS = 1.0
QUIET_SECONDS = 0.2  # without a further change: half a file may be a valid one

Signature = tuple[int, ...]  # what differs after each write and each exchange of a file


class SettledChanges:
    """Which of the signatures that a file has at successive looks is a change that is over. Pure.

    The first one is a change too. None, for a file that is not there, is no change: it is about to return.
    """

    def __init__(self) -> None:
        self._told: Signature | None = None
        self._before: Signature | None = None

    def look(self, found: Signature | None) -> Literal["same", "unsettled", "changed"]:
        before, self._before = self._before, found
        if found is None or found == self._told:
            return "same"
        if found != before:
            return "unsettled"
        self._told = found
        return "changed"


class FileWatch:
    """Calls `on_change` for the file as it is found first, and whenever it is another one or was written since.

    Owns a daemon thread, from `start` to `stop`, in which `on_change` is called: a dead network mount holds that thread
    alone, and not the process. Links are followed at each look. Content is not read.
    """

    def __init__(self, path: Path, on_change: Callable[[], None]) -> None:
        self._path = path
        self._on_change = on_change
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-config", daemon=True)

    def start(self) -> None:
        """Raises RuntimeError if this machine gives no thread."""
        self._thread.start()

    def stop(self) -> None:
        """Returns at once; a look that has begun may still call `on_change`."""
        self._stopping.set()

    def _run(self) -> None:
        changes = SettledChanges()
        while not self._stopping.is_set():
            state = changes.look(signature(self._path))
            if state == "changed":
                self._on_change()
            self._stopping.wait(QUIET_SECONDS if state == "unsettled" else LOOK_SECONDS)


def signature(path: Path) -> Signature | None:
    """None if it cannot be found. The time of the last change (ctime) differs also where a tool sets that of the last
    write back."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
