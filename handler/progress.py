"""How far a download or a load is, for the one who waits: a bar on a terminal, elsewhere sparse lines in the log."""

import logging
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tqdm import tqdm

SHARE = 0.1  # of the whole, that has a line of its own
MIN_PAUSE = 1.0  # seconds before it, or before a bar: what is quick says nothing
MAX_PAUSE = 30.0  # seconds after which there is a line in any case

log = logging.getLogger(__name__)


class Progress:
    """A context around one piece of work, measured in bytes. One thread at a time; it knows nothing of the work.

    The bar and the lines exclude each other. `num_bytes` is the whole, None where that is not known; `num_done` is what
    was there before.
    """

    def __init__(
        self, what: str, num_bytes: int | None, num_done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._num_bytes = num_bytes
        self._num_done = self._num_said = num_done
        self._clock = clock
        self._said = clock()
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm  # noqa: PLC0415  # a worker in a container never needs it

            self._bar = tqdm(
                desc=self._what, initial=self._num_done, total=self._num_bytes, unit="B", unit_scale=True,
                leave=False, delay=MIN_PAUSE,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def reach(self, num_done: int) -> None:
        """So many bytes are done by now."""
        if self._bar is not None:
            self._bar.update(num_done - self._num_done)
        self._num_done = num_done
        if self._bar is None and self._is_due():
            self._said, self._num_said = self._clock(), num_done
            whole = readable(self._num_bytes) if self._num_bytes is not None else "unknown"
            log.info("%s: %s of %s", self._what, readable(num_done), whole)

    def share(self, share: float) -> None:
        """The same as a share of the whole, from 0 to 1."""
        self.reach(round(share * (self._num_bytes or 0)))

    def _is_due(self) -> bool:
        waited = self._clock() - self._said
        is_far = self._num_bytes is not None and self._num_done - self._num_said >= SHARE * self._num_bytes
        return waited >= (MIN_PAUSE if is_far else MAX_PAUSE)


def readable(num_bytes: int) -> str:
    """In megabytes or gigabytes of a thousand."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
