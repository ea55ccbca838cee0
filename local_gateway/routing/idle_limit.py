"""The most that a target may be silent within its answer."""

import asyncio
from collections.abc import AsyncIterator

from local_gateway.errors import TargetTimeoutError


class IdleLimit:
    """The pieces of a body, from one reader at a time. Raises TargetTimeoutError when none comes for `idle` seconds.

    One timer for all of the body, which looks how long the read of this moment has waited: a timeout for each piece
    would cost more than the piece. The task that waits then is cancelled, as asyncio.timeout does.
    """

    def __init__(self, pieces: AsyncIterator[bytes], idle: float) -> None:
        self._pieces = pieces
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Task[object] | None = None  # that waits for a piece
        self._began = 0.0  # its waiting, by the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._num_cancels: int | None = None  # of the reader, without the one from here; None: it was not cancelled

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._reader = asyncio.current_task()
        self._began = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._idle, self._check)
        try:
            return await anext(self._pieces)
        except asyncio.CancelledError:
            if self._is_ours():
                raise TargetTimeoutError(f"The target sent nothing for {self._idle:g} s.") from None
            raise
        finally:
            self._reader = None

    def close(self) -> None:
        """No piece is read any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        """A reader that is not there now may be a client that reads slowly: the next read sets the timer again."""
        self._timer = None
        if self._reader is None:
            return
        left = self._began + self._idle - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._num_cancels = self._reader.cancelling()
            self._reader.cancel()

    def _is_ours(self) -> bool:
        """Whether the reader was cancelled from here, and from nowhere else."""
        num_cancels, self._num_cancels = self._num_cancels, None
        return num_cancels is not None and self._reader is not None and self._reader.uncancel() <= num_cancels
