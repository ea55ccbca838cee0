"""RunPod on this machine: endpoints, their workers, and all the addresses that the SDK and clients use."""

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from . import webhooks
from .client_api import ClientApi
from .clock import Clock
from .endpoint import Endpoint
from .events import EventLog
from .faults import Faults
from .job import Job
from .load_balancer import LoadBalancer
from .openai_api import OpenAiApi
from .rest_api import RestApi
from .settings import EndpointSettings, Settings
from .worker import Worker
from .worker_api import WorkerApi

TICK = 0.05  # real seconds between two looks at the deadlines
MAX_BODY_BYTES = 64_000_000
KEEP_ALIVE = 90.0  # aiohttp's clients keep connections for 15 s, and lose a post on one that was just closed [SRC]


class Emulator:
    """An asynchronous context: inside it listens at `url`; when it is left, none of its workers is."""

    def __init__(self, settings: Settings | None = None, *, clock: Clock | None = None, port: int = 0) -> None:
        self.settings = settings or Settings()
        self.clock = clock or Clock()
        self.log = EventLog(self.clock)
        self.faults = Faults(self.log)
        self.endpoints: dict[str, Endpoint] = {}
        self._port = port
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession())
        parts = self.endpoints, self.settings, self.faults
        self._balancer = LoadBalancer(*parts, self._session)
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        for api in (WorkerApi(*parts), ClientApi(*parts), OpenAiApi(*parts), RestApi(*parts), self._balancer):
            app.add_routes(api.routes())
        # A handler is cancelled when its client hangs up: that ends the long polls of the dead.
        runner = web.AppRunner(
            app, handler_cancellation=True, keepalive_timeout=KEEP_ALIVE, shutdown_timeout=0.1, access_log=None
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self._port = runner.addresses[0][1]
        self._spawn(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for endpoint in self.endpoints.values():
            await endpoint.fleet.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    def add_endpoint(self, name: str, own: EndpointSettings) -> Endpoint:
        endpoint = Endpoint(name, own, self.settings, self.log, self.environment)
        endpoint.queue.on_end = self._on_end
        self.endpoints[name] = endpoint
        if own.kind == "load_balancing":
            self._spawn(self._balancer.watch(endpoint))
        return endpoint

    def environment(self, endpoint: Endpoint, worker: Worker) -> dict[str, str]:
        """What the platform tells a worker. `$ID` and `$RUNPOD_POD_ID` are for the SDK to replace [SRC]."""
        env = {
            "RUNPOD_POD_ID": worker.id,
            "RUNPOD_ENDPOINT_ID": endpoint.name,
            "RUNPOD_POD_HOSTNAME": f"{worker.id}.emulator",
            "PYTHONUNBUFFERED": "1",
            # What would look at this machine: 4 GB of free memory, 10 % of free disk, 8.8.8.8, a GPU [SRC].
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }
        if endpoint.own.kind == "load_balancing":
            worker.port = _free_port()
            return env | {"PORT": str(worker.port)}
        base = f"{self.url}/v2/{endpoint.name}"
        return env | {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=EMU",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=EMU",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=EMU",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=EMU",
            "RUNPOD_PING_INTERVAL": str(round(1000 * self.settings.ping_interval)),
            "RUNPOD_AI_API_KEY": self.settings.worker_key,
        }

    def _on_end(self, job: Job) -> None:
        if job.webhook:
            self._spawn(webhooks.deliver(self._session, job, self.settings, self.log))

    async def _tick(self) -> None:
        while True:
            for endpoint in self.endpoints.values():
                endpoint.tick()
            await asyncio.sleep(TICK)

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
