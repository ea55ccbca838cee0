"""A day of an endpoint that scales to zero: a gateway, the emulated platform, played workers, and time that is moved.

Workers are processes that the platform starts, freezes and stops; what they take and answer is played here, when the
script says so. No second of the day is waited for: the clock is moved from one thing that happens to the next.
"""

import asyncio
import heapq
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from local_gateway.accounts.auth import Authenticator
from local_gateway.accounts.keys import Keyring
from local_gateway.accounts.limiter import Limiter
from local_gateway.accounts.worker_runs import WorkerRuns
from local_gateway.backends.http import HttpClient
from local_gateway.backends.runpod.worker_list import WorkerList
from local_gateway.config.settings import GatewaySettings, RunpodTarget, TimeoutSettings
from local_gateway.gateway import Gateway
from local_gateway.routing.worker_watch import WorkerWatch
from local_gateway.server.app import create_app
from local_gateway.storage.store import Store
from local_gateway.storage.writer import StoreWriter
from tests.gateway.asgi_client import AsgiClient, Response
from tests.runpod_emulator import Clock, Emulator, EndpointSettings, Job, Json, Settings, State, Worker

TIMEOUT = 60.0  # real seconds until a day that hangs fails
STEP = 0.4  # seconds that pass at once while there are workers
PRICE = 0.00031
SLEEPER = ("sleep", "100000")  # a worker's process; the rest of it is played
SETTINGS = Settings(ping_deadline=1e9, lost_job_after=None)  # played workers do not ping


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of the script."""

    at: float  # seconds from the day's beginning
    work: float  # seconds that a worker works on it
    num_prompt_tokens: int
    num_completion_tokens: int
    is_stream: bool = True


class StillClock(Clock):
    """Passes only when it is moved."""

    def now(self) -> float:
        return self._ahead


class Pause:
    """The pause of a watch between two looks, on the day's clock."""

    def __init__(self, clock: Clock) -> None:
        self.is_resting = asyncio.Event()
        self.until = 0.0
        self._clock = clock
        self._over = asyncio.Event()

    async def __call__(self, wake: asyncio.Event, seconds: float) -> None:
        self.until = self._clock.now() + seconds
        self._over.clear()
        self.is_resting.set()
        waits = [asyncio.create_task(event.wait()) for event in (wake, self._over)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        self.is_resting.clear()
        for wait in waits:
            wait.cancel()

    def end_if_due(self) -> None:
        if self._clock.now() >= self.until:
            self.is_resting.clear()
            self._over.set()


class ScriptedDay:
    """Plays one script. `starts` is how many seconds each start of a process takes, in turn."""

    def __init__(
        self, emulator: Emulator, client: AsgiClient, pause: Pause, arrivals: Iterable[Arrival], starts: Iterable[float]
    ) -> None:
        self.emulator = emulator
        self.arrivals = list(arrivals)
        self.cold_starts: list[float] = []  # seconds of those that were needed
        self.endpoint = emulator.endpoints["ep"]
        self.fleet = self.endpoint.fleet
        self.responses: list[Response] = []
        self._log = emulator.log
        self._clock = emulator.clock
        self._client = client
        self._pause = pause
        self._starts = iter(starts)
        self._numbers = count()
        self._agenda: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        self._known: set[str] = set()  # workers whose start is on the agenda
        self._answering: dict[str, asyncio.Task[None]] = {}  # by job

    async def play(self) -> None:
        """To the moment at which the last worker is gone."""
        for arrival in self.arrivals:
            self._plan(arrival.at, partial(self._arrive, arrival))
        while self._agenda:
            time, _, act = heapq.heappop(self._agenda)
            await self._pass_to(time)
            await act()
        while self._workers():
            await self._pass_to(self._clock.now() + STEP)
        await self._pass_to(self._pause.until)  # it looks once more

    # Time

    @property
    def now(self) -> float:
        return self._clock.now()

    def _plan(self, time: float, act: Callable[[], Awaitable[None]]) -> None:
        heapq.heappush(self._agenda, (time, next(self._numbers), act))

    async def _pass_to(self, time: float) -> None:
        while (now := self._clock.now()) < time:
            step = STEP if self._workers() else max(self._pause.until - now, STEP)
            self._clock.advance(min(step, time - now))
            await self._platform_acts()
            self._pause.end_if_due()
            await self._pause.is_resting.wait()

    async def _platform_acts(self) -> None:
        """A tick, and what follows from it: processes start and end in no time of this clock."""
        self.endpoint.tick()
        for worker in self.fleet.of_state(State.STOPPING):
            await self._happens(partial(self._is_gone, worker))
        for worker in self.fleet.of_state(State.STARTING):
            await self._happens(partial(self._is_billed, worker))
            if worker.id not in self._known:
                self._known.add(worker.id)
                self.cold_starts.append(next(self._starts))
                self._plan(self._clock.now() + self.cold_starts[-1], partial(self._ready, worker))

    async def _happens(self, condition: Callable[[], object]) -> None:
        assert await self._log.until(condition, TIMEOUT)

    def _is_gone(self, worker: Worker) -> bool:
        return worker.state is State.GONE

    def _is_billed(self, worker: Worker) -> bool:
        return self.fleet.bill.started(worker.id) is not None

    def _workers(self) -> list[Worker]:
        return self.fleet.of_state(State.STARTING, State.READY, State.STOPPING)

    # What happens

    async def _arrive(self, arrival: Arrival) -> None:
        """A client asks; the number of the arrival is the prompt, so that its job is known."""
        content = str(self.arrivals.index(arrival))
        body = {"model": "llama", "stream": arrival.is_stream, "messages": [{"role": "user", "content": content}]}
        num_jobs = len(self._log.find("submitted"))
        response, answering = self._client.start("POST", "/v1/chat/completions", json.dumps(body).encode())
        self.responses.append(response)
        await self._happens(lambda: len(self._log.find("submitted")) > num_jobs)
        self._answering[self._log.find("submitted")[-1].job_id] = answering
        await self._platform_acts()
        self._assign()

    async def _ready(self, worker: Worker) -> None:
        self.fleet.ready(worker)
        self._assign()

    def _assign(self) -> None:
        """Each idle worker takes one job that waits."""
        for worker in self.fleet.of_state(State.READY):
            if not self.endpoint.num_busy(worker):
                for job in self.endpoint.queue.take(worker.id, 1, self._clock.now()):
                    work = self._arrival_of(job).work
                    self._plan(self._clock.now() + work, partial(self._finish, job))

    async def _finish(self, job: Job) -> None:
        arrival = self._arrival_of(job)
        usage = {"prompt_tokens": arrival.num_prompt_tokens, "completion_tokens": arrival.num_completion_tokens}
        queue, now = self.endpoint.queue, self._clock.now()
        if arrival.is_stream:
            chunks: list[Json] = [{"choices": [{"index": 0, "delta": {"content": "so"}, "finish_reason": "stop"}]}]
            chunks.append({"choices": [], "usage": usage})
            events = [*(f"data: {json.dumps({'id': 'c1', **chunk})}\n\n" for chunk in chunks), "data: [DONE]\n\n"]
            queue.stream(job.id, job.worker_id, "".join(events))
            queue.done(job.id, job.worker_id, {"output": events}, now)
        else:
            choices = [{"index": 0, "message": {"role": "assistant", "content": "so"}, "finish_reason": "stop"}]
            queue.done(job.id, job.worker_id, {"output": [{"id": "c1", "choices": choices, "usage": usage}]}, now)
        await self._answering[job.id]
        self._assign()

    def _arrival_of(self, job: Job) -> Arrival:
        return self.arrivals[int(job.input["openai_input"]["messages"][0]["content"])]


@asynccontextmanager
async def scripted_day(
    folder: Path, arrivals: Iterable[Arrival], starts: Iterable[float], own: EndpointSettings
) -> AsyncIterator[tuple[ScriptedDay, GatewaySettings]]:
    """All that was recorded is in the settings' database when the context is left. `own` has the SLEEPER's command."""
    async with AsyncExitStack() as stack:
        clock = StillClock()
        emulator = await stack.enter_async_context(Emulator(SETTINGS, clock=clock))
        emulator.add_endpoint("ep", own)
        target = {
            "type": "runpod_queue",
            "endpoint_id": "ep",
            "api_key": SETTINGS.client_key,
            "base_url": f"{emulator.url}/v2",
            "rest_url": f"{emulator.url}/v2",
            "worker_price": PRICE,
        }
        settings = GatewaySettings.model_validate(
            {"models": {"llama": {"targets": [target]}}, "database": {"url": f"sqlite:///{folder}/gateway.db"}}
        )
        http = HttpClient(TimeoutSettings())
        stack.push_async_callback(http.aclose)
        writer = StoreWriter(lambda create: Store(settings.database.url, create=create), keep_usage=1e9)
        writer.start(lambda snapshot: None)
        stack.push_async_callback(asyncio.to_thread, writer.close, TIMEOUT)
        pause = Pause(clock)

        def make_watch(settings: RunpodTarget) -> WorkerWatch:
            look = WorkerList(settings, http).workers
            runs = WorkerRuns(settings.endpoint_id, settings.worker_price)
            return WorkerWatch(runs, look, writer.note_runs, clock=clock.now, wait=pause)

        auth = Authenticator(require_keys=False, clock=clock.now)
        auth.update(Keyring())
        gateway = Gateway(settings, auth, Limiter(clock.now), writer, make_watch=make_watch)
        stack.push_async_callback(gateway.aclose)
        gateway.start()
        await pause.is_resting.wait()
        yield ScriptedDay(emulator, AsgiClient(create_app(gateway)), pause, arrivals, starts), settings


def stored_runs(settings: GatewaySettings) -> dict[str, list[int]]:
    """The billed seconds of each worker's runs, in their order, as the gateway stored them."""
    runs: dict[str, list[int]] = {}
    with closing(Store(settings.database.url)) as store, store.database.read() as connection:
        statement = (
            "SELECT worker_id, SUM(billed_seconds) FROM gateway_worker_runs"
            " GROUP BY worker_id, started ORDER BY worker_id, started"
        )
        for worker_id, seconds in connection.exec_driver_sql(statement):
            runs.setdefault(worker_id, []).append(seconds)
    return runs
