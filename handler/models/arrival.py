"""What has arrived of a file that is being downloaded, to be read meanwhile.

The bytes come in the file's order, as one thread writes them; another reads them anywhere, and waits for those that are
still to come.
"""

import ctypes
import os
import threading
from pathlib import Path


class NotArrivingError(Exception):
    """The bytes will not come, or are those of another version of the file: it must be read when it is there."""

    def __init__(self) -> None:
        super().__init__("the download ended, or began anew")


class Arrival:
    """One download. Owns a descriptor of the partial file, which stays the file's when that is renamed."""

    def __init__(self) -> None:
        self.name = ""  # of the file, once it is known
        self._changed = threading.Condition()
        self._file: int | None = None
        self._num_bytes = 0  # of the whole; 0 until it is known
        self._num_arrived = 0
        self._is_lost = False

    # By the thread that downloads

    def begin(self, part: Path, num_bytes: int | None, num_arrived: int) -> None:
        """A connection brings what comes after `num_arrived` bytes of the partial file, which is there. Where it is not
        known how long the file is, or it begins anew or changed its length, no byte can be told from another's."""
        with self._changed:
            is_new = self._num_arrived == 0
            if not num_bytes or num_arrived < self._num_arrived or (not is_new and num_bytes != self._num_bytes):
                self._is_lost = True
            elif is_new and not self._is_lost:
                self._close()
                self._file = os.open(part, os.O_RDONLY)
                self._num_bytes, self.name = num_bytes, part.stem
            self._num_arrived = max(num_arrived, self._num_arrived)
            self._changed.notify_all()

    def reach(self, num_arrived: int) -> None:
        """So many bytes can be read."""
        with self._changed:
            self._num_arrived = num_arrived
            self._changed.notify_all()

    def finish(self) -> None:
        """No more will come: readers that wait for more wait in vain."""
        with self._changed:
            self._is_lost = self._is_lost or self._num_arrived < self._num_bytes or not self._num_bytes
            self._changed.notify_all()

    # By the thread that reads

    @property
    def size(self) -> int:
        """Bytes of the whole file. Waits until that is known; raises NotArrivingError."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_bytes or self._is_lost)
            if not self._num_bytes:
                raise NotArrivingError
            return self._num_bytes

    def wait_for(self, num_bytes: int) -> None:
        """Until the first so many bytes have arrived. Raises NotArrivingError."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_arrived >= num_bytes or self._is_lost)
            if self._is_lost:
                raise NotArrivingError

    def read(self, num_bytes: int) -> bytes:
        """The first so many bytes, or all there are, as soon as they have arrived. Raises NotArrivingError."""
        num_bytes = min(num_bytes, self.size)
        self.wait_for(num_bytes)
        assert self._file is not None, "something has arrived"
        return os.pread(self._file, num_bytes, 0)

    def read_into(self, address: int, position: int, num_bytes: int) -> int:
        """Write up to `num_bytes` of what has arrived to an address; how many they are, 0 at the end of the file only.
        Raises NotArrivingError and OSError."""
        if position >= self.size or not num_bytes:
            return 0
        self.wait_for(position + 1)
        assert self._file is not None, "something has arrived"
        num_bytes = min(num_bytes, self._num_arrived - position)
        return os.preadv(
            self._file, [memoryview((ctypes.c_ubyte * num_bytes).from_address(address)).cast("B")], position
        )

    def close(self) -> None:
        """No more is read."""
        with self._changed:
            self._is_lost = True
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
