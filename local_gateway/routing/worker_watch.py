"""Watching the workers of a RunPod endpoint, which are billed while they run: eagerly while there are requests."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf

from local_gateway.accounts.worker_runs import WorkerRun, WorkerRuns
from local_gateway.errors import RequestError
from local_gateway.wire.worker_list import SeenWorker

log = logging.getLogger(__name__)

EAGER_FOR = 60.0  # seconds after a request in which its worker mostly stops
# Seconds between two looks.
EAGER = 2.0
CALM = 15.0  # workers run without a request of ours
ASLEEP = 60.0  # no worker runs, and the next request wakes the watch

Look = Callable[[], Awaitable[list[SeenWorker]]]
Note = Callable[[Sequence[WorkerRun]], None]
Wait = Callable[[asyncio.Event, float], Awaitable[None]]


def pause_before_look(since_request: float, num_running: int | None, num_failures: int = 0) -> float:
    """Seconds until the next look. `since_request` seconds ago a request was there; so many looks failed in a row."""
    calm = ASLEEP if num_running == 0 else CALM
    pause = EAGER if since_request <= EAGER_FOR else calm
    backoff = EAGER * 2.0 ** min(num_failures - 1, 10) if num_failures else 0.0
    return max(pause, min(backoff, ASLEEP))


async def set_or_later(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set, or after so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class WorkerWatch:
    """Looks at one endpoint's workers and notes their runs, from `start` to `aclose`.

    Owns its task. Shared by all targets with this endpoint, which tell it of their requests. Lives in the event loop.
    A look that fails is logged once, until one succeeds.
    """

    def __init__(
        self,
        runs: WorkerRuns,
        look: Look,
        note: Note,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = set_or_later,
    ) -> None:
        self.runs = runs
        self._look_at_workers = look
        self._note = note
        self._clock = clock
        self._wait = wait
        self._wake = asyncio.Event()
        self._num_requests = 0
        self._last_request = -inf  # when the last one ended
        self._num_failures = 0  # in a row
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """May be repeated."""
        self._task = self._task or asyncio.create_task(self._run())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def request_began(self) -> None:
        """A target is asked; it may start a worker."""
        if not self.is_eager:
            self._wake.set()
        self._num_requests += 1

    def request_ended(self) -> None:
        self._num_requests -= 1
        self._last_request = self._clock()

    def request_diverted(self) -> None:
        """A request that would have woken a worker went elsewhere: the next one asks again whether a worker runs."""
        self.request_began()
        self.request_ended()

    @property
    def is_eager(self) -> bool:
        """There are requests, or were a moment ago."""
        return self._since_request <= EAGER_FOR

    @property
    def _since_request(self) -> float:
        return 0.0 if self._num_requests else self._clock() - self._last_request

    async def _run(self) -> None:
        while True:
            asked_to_wait = await self._look()
            pause = pause_before_look(self._since_request, self.runs.num_running, self._num_failures)
            await self._wait(self._wake, max(pause, asked_to_wait))
            self._wake.clear()

    async def _look(self) -> float:
        """Returns the seconds for which RunPod wants to be left alone."""
        try:
            seen = await self._look_at_workers()
        except RequestError as error:
            self.runs.look_failed()
            self._note_failure(error)
            return error.retry_after or 0.0
        self._note_success()
        self._note(self.runs.look(self._clock(), seen))
        return 0.0

    def _note_failure(self, error: RequestError) -> None:
        if not self._num_failures:
            log.warning("endpoint %s: its workers cannot be counted: %s", self.runs.endpoint, error.log_text)
        self._num_failures += 1

    def _note_success(self) -> None:
        if self._num_failures:
            log.info("endpoint %s: its workers are counted again", self.runs.endpoint)
        self._num_failures = 0
