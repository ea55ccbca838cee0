"""A queue endpoint on the emulated platform, whose worker is played by the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from local_gateway.backends.base import Call, Upstream
from local_gateway.backends.http import HttpClient
from local_gateway.backends.runpod.client import RunpodClient
from local_gateway.backends.runpod.queue import RunpodQueueBackend
from local_gateway.config.settings import RunpodQueueTarget, TimeoutSettings
from tests.gateway.targets.on_socket import TIMEOUT
from tests.runpod_emulator import Clock, Emulator, EndpointSettings, Event, Job, Settings

WORKER = "w1"
STREAM = Call(path="/chat/completions", body=b'{"model":"llama","stream":true}', is_stream=True)
CHAT = Call(path="/chat/completions", body=b'{"model":"llama"}')


class PlayedEndpoint:
    """Both ends: `backend` asks, and what a worker does is a method here."""

    def __init__(self, emulator: Emulator, backend: RunpodQueueBackend) -> None:
        self.emulator = emulator
        self.endpoint = emulator.endpoints["ep"]
        self.backend = backend
        self._queue = self.endpoint.queue

    def open(self, call: Call = STREAM) -> asyncio.Task[Upstream]:
        return asyncio.create_task(self.backend.open(call))

    async def submitted(self) -> Job:
        """The next job that waits, not yet taken."""
        await self.happens(lambda: self._queue.waiting)
        return self._queue.waiting[0]

    async def take(self, worker_id: str = WORKER) -> Job:
        job = await self.submitted()
        self._queue.take(worker_id, 1, self.endpoint.now)
        return job

    async def begin(self, *outputs: object, call: Call = STREAM) -> tuple[Job, Upstream]:
        """A call, whose job has put these out."""
        opening = self.open(call)
        job = await self.take()
        self.put(job, *outputs)
        return job, await opening

    def put(self, job: Job, *outputs: object) -> None:
        for output in outputs:
            self._queue.stream(job.id, job.worker_id, output)

    def done(self, job: Job, output: object = None) -> None:
        self._queue.done(job.id, job.worker_id, {"output": output}, self.endpoint.now)

    def fail(self, job: Job, error: object) -> None:
        self._queue.done(job.id, job.worker_id, {"error": error}, self.endpoint.now)

    def die(self, job: Job) -> None:
        """The worker is gone, and the job goes back into the queue."""
        self._queue.worker_gone(job.worker_id, self.endpoint.now)

    async def happens(self, condition: Any) -> None:
        assert await self.emulator.log.until(condition, TIMEOUT)

    async def ended(self, job: Job) -> Event:
        await self.happens(lambda: job.status.is_final)
        return self.emulator.log.find("ended", job_id=job.id)[0]


def target_settings(emulator: Emulator, **settings: Any) -> RunpodQueueTarget:
    return RunpodQueueTarget(
        **{
            "type": "runpod_queue",
            "endpoint_id": "ep",
            "api_key": emulator.settings.client_key,
            "base_url": f"{emulator.url}/v2",
        }
        | settings
    )


async def no_pause(_seconds: float) -> None:
    await asyncio.sleep(0)


@asynccontextmanager
async def played(
    settings: Settings | None = None, *, clock: Clock | None = None, **target: Any
) -> AsyncIterator[PlayedEndpoint]:
    """In the end nothing is left running, or the test fails."""
    http = HttpClient(TimeoutSettings())
    async with Emulator(settings, clock=clock) as emulator, asyncio.timeout(TIMEOUT):
        emulator.add_endpoint("ep", EndpointSettings())
        own = target_settings(emulator, **target)
        backend = RunpodQueueBackend(own, http, RunpodClient(own, http, pause=no_pause))
        try:
            yield PlayedEndpoint(emulator, backend)
        finally:
            await backend.aclose()
            await http.aclose()


async def read(upstream: Upstream) -> bytes:
    """The whole body, and let go of it."""
    try:
        return b"".join([piece async for piece in upstream])
    finally:
        await upstream.aclose()


async def piece_of(upstream: Upstream) -> bytes:
    """The next."""
    return await anext(aiter(upstream))
