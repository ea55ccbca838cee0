"""The calls of a RunPod queue endpoint, in its own terms: /run, /stream, /status, /cancel, /health.

Knows how often it may call, and what to call again. Knows nothing of OpenAI, nor of what is in a job.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from local_gateway.backends.base import configured_headers
from local_gateway.backends.http import HttpClient, Reply
from local_gateway.backends.runpod.api_types import (
    JobStatus,
    JobUnknownError,
    StreamPoll,
    body_of,
    job_id_of,
    poll_of,
    status_of,
)
from local_gateway.backends.runpod.rate_window import RateWindow
from local_gateway.config.settings import RunpodQueueTarget
from local_gateway.errors import (
    RequestError,
    TargetConfigError,
    TargetError,
    TargetRefusedError,
    TargetTimeoutError,
    TargetUnreachableError,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

STREAM_WAIT = 30.0  # seconds that /stream may hold a call while there is nothing new
TIMEOUT = 10.0  # seconds for an answer, beyond what the call itself waits
RUN_TIMEOUT = 60.0  # seconds, for up to 10 MB
CLOSE_TIMEOUT = 20.0  # seconds, for what must still be cancelled
MAX_CONCURRENT_CANCELS = 20
CANCELS = (100, 10.5)  # calls, seconds; RunPod counts 10, and calls do not take equally long to get there
BACKOFF = (0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0)  # seconds between tries; jittered
MAX_RETRY_AFTER = 15.0  # seconds


class RunpodClient:
    """One endpoint. `pause` sleeps; `clock` is monotonic, in seconds."""

    def __init__(
        self,
        settings: RunpodQueueTarget,
        http: HttpClient,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.pause = pause
        self.clock = clock
        self._http = http
        self._url = f"{settings.base_url.rstrip('/')}/{settings.endpoint_id}"
        key = settings.api_key.get_secret_value()
        self._headers = {"authorization": f"Bearer {key}", **configured_headers(settings)}
        self._jitter = jitter
        self._cancels = RateWindow(*CANCELS)
        self._cancelling = asyncio.Semaphore(MAX_CONCURRENT_CANCELS)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, payload: bytes) -> str:
        """Submit a job; its id. Cancelled, it leaves no job: one that is submitted all the same is cancelled.

        Raises TargetError and PayloadTooLargeError; tried once. An answer that got lost leaves a job behind that
        has no known id and ends by its policy.
        """
        posting = self._spawn(self._post_job(payload))
        try:
            return await asyncio.shield(posting)
        except asyncio.CancelledError:
            if not posting.cancelled():
                self._spawn(self._cancel_when_known(posting))
            raise

    async def _post_job(self, payload: bytes) -> str:
        try:
            return job_id_of(body_of(await self._fetch("POST", "run", RUN_TIMEOUT, payload)))
        except JobUnknownError as error:
            raise TargetConfigError("RunPod does not know the endpoint.") from error

    async def _cancel_when_known(self, posting: asyncio.Task[str]) -> None:
        try:
            job_id = await posting
        except RequestError:
            return  # there is no job
        await self._cancel_or_log(job_id)

    async def stream(self, job_id: str) -> StreamPoll:
        """What is new, as soon as there is anything. It is told once, so only a refused call (429) is tried again.

        Raises TargetError. After one that is not JobUnknownError an output may be lost.
        """
        path = f"stream/{job_id}?wait={1000 * STREAM_WAIT:.0f}"
        return poll_of(await self._ask("GET", path, STREAM_WAIT + TIMEOUT, drains=True))

    async def status(self, job_id: str) -> JobStatus:
        """Raises TargetError after some tries."""
        return status_of(await self._ask("GET", f"status/{job_id}", TIMEOUT))

    async def cancel(self, job_id: str) -> None:
        """Changes nothing about a job that is over. Waits its turn; raises TargetError after some tries."""
        async with self._cancelling:
            try:
                await self._ask("POST", f"cancel/{job_id}", TIMEOUT, window=self._cancels)
            except JobUnknownError:
                log.debug("job %s: over before it was cancelled", job_id)

    def cancel_soon(self, job_id: str) -> asyncio.Task[None]:
        """The same in the background. Never raises; `aclose` waits for it."""
        return self._spawn(self._cancel_or_log(job_id))

    async def _cancel_or_log(self, job_id: str) -> None:
        try:
            await self.cancel(job_id)
        except TargetError as error:
            log.warning("job %s could not be cancelled, and ends by its policy: %s", job_id, error)

    async def health(self, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109 - becomes our own error
        """Raises TargetError; tried once."""
        return body_of(await self._fetch("GET", "health", timeout))

    async def aclose(self) -> None:
        """Waits for what must still be cancelled, but not for ever."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                while self._tasks:
                    await asyncio.wait(self._tasks.copy())
        except TimeoutError:
            log.warning("%d jobs could not be cancelled in time, and end by their policy", len(self._tasks))
        for task in self._tasks.copy():
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # One call

    async def _ask(
        self, method: str, path: str, seconds: float, *, drains: bool = False, window: RateWindow | None = None
    ) -> dict[str, Any]:
        """The body; tried again with growing pauses. A call that `drains` only if it was refused before it did."""
        backoffs = iter(BACKOFF)
        while True:
            await self._until_allowed(window)
            try:
                return body_of(await self._fetch(method, path, seconds, may_repeat=not drains))
            except TargetError as error:
                backoff = next(backoffs, None)
                if backoff is None or not _may_pass(error, drains):
                    raise
                await self.pause_before_try(backoff, error)

    async def pause_before_try(self, backoff: float, failure: TargetError) -> None:
        """As long as the platform asks for, within reason; else some part of `backoff` seconds."""
        wanted = min(failure.retry_after or 0.0, MAX_RETRY_AFTER)
        await self.pause(max(wanted, backoff * (0.5 + 0.5 * self._jitter())))

    async def _until_allowed(self, window: RateWindow | None) -> None:
        while window is not None and (seconds := window.enter(self.clock())):
            await self.pause(seconds)

    async def _fetch(
        self, method: str, path: str, seconds: float, body: bytes = b"", *, may_repeat: bool = True
    ) -> Reply:
        headers = {"content-type": "application/json", **self._headers} if body else self._headers
        url = f"{self._url}/{path}"
        return await self._http.fetch(method, url, headers=headers, body=body, timeout=seconds, may_repeat=may_repeat)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _may_pass(error: TargetError, drains: bool) -> bool:
    """Whether the same call may do better later."""
    if isinstance(error, TargetRefusedError):
        return error.status == 429 or (error.status >= 500 and not drains)
    return isinstance(error, TargetUnreachableError | TargetTimeoutError) and not drains
