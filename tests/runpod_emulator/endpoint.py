"""A queue endpoint: jobs on one side, workers on the other, and the long polls between them."""

from collections.abc import Callable
from typing import TypeVar

from .events import EventLog
from .fleet import Fleet
from .job import Job
from .limits import RateLimiter
from .queue import JobQueue
from .settings import EndpointSettings, Settings
from .worker import State, Worker

T = TypeVar("T")


class Endpoint:
    def __init__(
        self,
        name: str,
        own: EndpointSettings,
        settings: Settings,
        log: EventLog,
        environment: Callable[["Endpoint", Worker], dict[str, str]],
    ) -> None:
        self.name = name
        self.own = own
        self.settings = settings
        self.log = log
        self.limiter = RateLimiter(settings.rate_limits)
        self.queue = JobQueue(settings, log.note)
        self.num_balanced = 0  # requests of a load-balancing endpoint, waiting or running
        self.fleet = Fleet(
            name,
            own,
            log,
            environment=lambda worker: environment(self, worker),
            num_busy=self.num_busy,
            num_requests=lambda: self.num_balanced + len(self.queue.waiting) + len(self.queue.in_progress),
            on_gone=lambda worker: self.queue.worker_gone(worker.id, self.now),
        )

    @property
    def now(self) -> float:
        return self.log.clock.now()

    def num_busy(self, worker: Worker) -> int:
        """Requests and jobs that it has."""
        return worker.num_requests + len(self.queue.held_by(worker.id))

    @property
    def num_running_workers(self) -> int:
        return sum(bool(self.queue.held_by(worker.id)) for worker in self.fleet.of_state(State.READY))

    def tick(self) -> None:
        for worker in self.fleet.of_state(State.READY):
            if not worker.has_pinged:  # then its pings cannot tell what it has lost
                self.queue.listed(worker.id, [job.id for job in self.queue.held_by(worker.id)], self.now)
        self.queue.tick(self.now)
        self.fleet.tick(self.now, self.settings.ping_deadline)

    # The workers' long polls

    async def take(self, worker_id: str, max_jobs: int) -> list[Job]:
        worker = self.fleet.seen(worker_id)
        self.fleet.ready(worker)
        return await self.log.until(lambda: self._offer(worker, max_jobs), self.settings.take_hold) or []

    def _offer(self, worker: Worker, max_jobs: int) -> list[Job]:
        stopping = worker.state is State.STOPPING and self.settings.gives_to_stopping and not worker.unhealthy
        return self.queue.take(worker.id, max_jobs, self.now) if worker.state is State.READY or stopping else []

    async def stops(self, worker_id: str) -> list[str]:
        self.fleet.seen(worker_id)
        await self.log.until(lambda: self.queue.stops[worker_id], self.settings.stop_hold)
        job_ids = self.queue.stops.pop(worker_id, [])
        for job_id in job_ids:
            self.log.note("stop_sent", job_id=job_id, worker_id=worker_id)
        return job_ids

    def ping(self, worker_id: str, job_ids: list[str]) -> None:
        worker = self.fleet.seen(worker_id)
        worker.has_pinged = True
        self.queue.listed(worker_id, job_ids, self.now)

    # The clients' long polls

    async def until_over(self, job: Job, wait: float) -> None:
        await self.log.until(lambda: job.status.is_final, wait)

    async def until_news(self, job: Job, wait: float) -> None:
        await self.log.until(lambda: job.unread or job.status.is_final, wait)

    def health(self) -> dict[str, dict[str, int]]:
        """Documented are idle and running; its clients' types have the rest [SRC]."""
        ready, running = self.fleet.of_state(State.READY), self.num_running_workers
        return {
            "jobs": {
                "completed": self.queue.num_completed,
                "failed": self.queue.num_failed,
                "inProgress": len(self.queue.in_progress),
                "inQueue": len(self.queue.waiting),
                "retried": self.queue.num_retried,
            },
            "workers": {
                "idle": len(ready) - running,
                "initializing": len(self.fleet.of_state(State.STARTING)),
                "ready": len(ready),
                "running": running,
                "throttled": 0,
                "unhealthy": sum(worker.unhealthy != "" for worker in self.fleet.workers.values()),
            },
        }
