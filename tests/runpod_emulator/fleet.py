"""An endpoint's workers: started when there is work, frozen or stopped when there is none, replaced when they die."""

import asyncio
import math
import os
from collections.abc import Callable
from contextlib import suppress

from .bill import Bill
from .clock import Clock
from .events import EventLog
from .process import WorkerProcess
from .settings import EndpointSettings
from .worker import State, Worker

INHERITED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR")  # a container would have its own


class Fleet:
    """`environment` gives what the platform tells a worker; `num_busy` how much work one has; `num_requests` how much
    there is in all; `on_gone` hears of a worker that is no more."""

    def __init__(
        self,
        name: str,
        settings: EndpointSettings,
        log: EventLog,
        *,
        environment: Callable[[Worker], dict[str, str]],
        num_busy: Callable[[Worker], int],
        num_requests: Callable[[], int],
        on_gone: Callable[[Worker], None],
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self.bill = Bill()
        self.settings = settings
        self._name = name
        self._log = log
        self._environment = environment
        self._num_busy = num_busy
        self._num_requests = num_requests
        self._on_gone = on_gone
        self._num_started = 0
        self._start_not_before = 0.0
        self._closed = asyncio.Event()
        self._lives: list[asyncio.Task[None]] = []
        self._timers: set[asyncio.Task[None]] = set()

    @property
    def billed_seconds(self) -> int:
        """Of all runs so far."""
        return sum(self.bill.seconds(self._clock.now()))

    @property
    def _clock(self) -> Clock:
        return self._log.clock

    def of_state(self, *states: State) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.state in states]

    def seen(self, worker_id: str) -> Worker:
        """A worker has called. One that we did not start was started by hand."""
        now = self._clock.now()
        worker = self.workers.get(worker_id)
        if worker is None:
            worker = self.workers[worker_id] = Worker(worker_id, now, now, State.READY)
            self._note("worker_came", worker)
        worker.last_seen = now
        return worker

    def ready(self, worker: Worker) -> None:
        if worker.state is State.STARTING:
            worker.state = State.READY
            worker.idle_since = self._clock.now()
            self._note("worker_ready", worker)

    def unhealthy(self, worker: Worker, reason: str) -> None:
        """It says so itself, and is expected to exit; the platform replaces it."""
        worker.unhealthy = reason
        self._note("worker_unhealthy", worker, reason)
        if worker.state is not State.GONE:
            worker.state = State.STOPPING
            self._kill_later(worker)

    # Scaling

    def tick(self, now: float, ping_deadline: float) -> None:
        for worker in self.of_state(State.STARTING, State.READY, State.STOPPING):
            if self._num_busy(worker) or worker.state is not State.READY:
                worker.idle_since = now
            if worker.state is State.READY and now - worker.last_seen > ping_deadline:
                worker.state = State.STOPPING
                self._note("worker_silent", worker)
                self.kill(worker)
        if self.settings.command:
            self._scale(now)

    def _scale(self, now: float) -> None:
        present = [worker for worker in self.workers.values() if worker.is_present]
        num_wanted = self.num_wanted(self._num_requests())
        if len(present) < num_wanted and now >= self._start_not_before:
            self.resume_or_start()
        idle = [worker for worker in present if now - worker.idle_since > self.settings.idle_timeout]
        for worker in idle[: max(0, len(present) - num_wanted)]:
            self.freeze(worker) if self.settings.flashboot else self.stop(worker)

    def num_wanted(self, num_requests: int) -> int:
        """RunPod's REQUEST_COUNT rule [DOC]."""
        wanted = math.ceil(num_requests / self.settings.requests_per_worker)
        return min(max(wanted, self.settings.min_workers), self.settings.max_workers)

    def resume_or_start(self) -> Worker:
        if frozen := self.of_state(State.FROZEN):
            self.thaw(frozen[0])
            return frozen[0]
        return self.start()

    # A worker's life

    def start(self) -> Worker:
        self._num_started += 1
        now = self._clock.now()
        worker = Worker(f"{self._name}-w{self._num_started}", now, now)
        self.workers[worker.id] = worker
        self._note("worker_started", worker)
        self._lives.append(asyncio.create_task(self._live(worker)))
        return worker

    async def _live(self, worker: Worker) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), self._clock.real(self.settings.cold_start))
        how = await self._run(worker) if worker.state is State.STARTING else "never started"
        if worker.is_present:
            self._start_not_before = self._clock.now() + self.settings.restart_pause
        self._gone(worker, how)

    async def _run(self, worker: Worker) -> str:
        """Its process, from beginning to end. Returns how it ended."""
        env = {name: os.environ[name] for name in INHERITED if name in os.environ}
        env |= self._environment(worker) | self.settings.env
        try:
            worker.process = await WorkerProcess.start(
                self.settings.command, env, lambda line: self._note("log", worker, line)
            )
        except OSError as error:
            return str(error)
        self.bill.began(worker.id, self._clock.now())
        self._note("container_started", worker)
        if self._closed.is_set() or worker.state is not State.STARTING:
            worker.process.kill()
        return f"exit code {await worker.process.run()}"

    def stop(self, worker: Worker) -> None:
        """SIGTERM, and SIGKILL if it takes too long."""
        self._note("worker_stopped", worker)
        worker.state = State.STOPPING
        if worker.process is not None:
            worker.process.terminate()
        self._kill_later(worker)

    async def _kill_after_grace(self, worker: Worker) -> None:
        await self._clock.sleep(self.settings.grace)
        if worker.state is State.STOPPING:
            self.kill(worker)

    def kill(self, worker: Worker) -> None:
        """Its machine is lost."""
        self._note("worker_killed", worker)
        if worker.process is not None:
            worker.process.kill()
        else:
            self._gone(worker, "it has no process here")

    def freeze(self, worker: Worker) -> None:
        assert worker.process is not None
        worker.state = State.FROZEN
        worker.process.freeze()
        self.bill.ended(worker.id, self._clock.now())
        self._note("worker_frozen", worker)

    def thaw(self, worker: Worker) -> None:
        assert worker.process is not None
        worker.state = State.READY
        worker.last_seen = worker.idle_since = self._clock.now()
        worker.process.thaw()
        self.bill.began(worker.id, self._clock.now())
        self._note("worker_thawed", worker)

    def _gone(self, worker: Worker, detail: str) -> None:
        if worker.state is not State.GONE:
            worker.state = State.GONE
            self.bill.ended(worker.id, self._clock.now())
            self._note("worker_gone", worker, detail)
            self._on_gone(worker)

    async def close(self) -> None:
        """Nothing that was started is left."""
        self._closed.set()
        for timer in self._timers:
            timer.cancel()
        for worker in self.workers.values():
            if worker.process is not None:
                worker.process.kill()
        await asyncio.gather(*self._lives, *self._timers, return_exceptions=True)

    def _kill_later(self, worker: Worker) -> None:
        timer = asyncio.create_task(self._kill_after_grace(worker))
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)

    def _note(self, name: str, worker: Worker, detail: str = "") -> None:
        self._log.note(name, worker_id=worker.id, detail=detail)
