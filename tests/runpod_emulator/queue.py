"""An endpoint's jobs: who waits, who has which, and what becomes of them. Pure: time comes in as an argument.

    IN_QUEUE ──take──► IN_PROGRESS ──job-done──► COMPLETED | FAILED
       ▲  │                │  │
       │  └──cancel, ttl───┼──┴──cancel, executionTimeout──► CANCELLED | TIMED_OUT, and a stop signal to the worker
       └──worker is gone───┘

A job has one worker at a time, and only that worker's posts count: what arrives from another, or after the end, is
answered with 200 and ignored. So no job is answered twice.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

from .job import Job, Json, Status
from .settings import Settings


class Note(Protocol):
    def __call__(self, name: str, *, job_id: str = "", worker_id: str = "", detail: str = "") -> None: ...


class JobQueue:
    def __init__(self, settings: Settings, note: Note) -> None:
        self.jobs: dict[str, Job] = {}
        self.waiting: list[Job] = []
        self.stops: dict[str, list[str]] = defaultdict(list)  # job ids to stop, by worker
        self.on_end: Callable[[Job], None] = lambda job: None
        self.num_completed = self.num_failed = self.num_retried = 0
        self._settings = settings
        self._note = note

    @property
    def in_progress(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.status is Status.IN_PROGRESS]

    def held_by(self, worker_id: str) -> list[Job]:
        return [job for job in self.in_progress if job.worker_id == worker_id]

    # The client's side

    def submit(self, job: Job) -> None:
        self.jobs[job.id] = job
        self.waiting.append(job)
        self._note("submitted", job_id=job.id)

    def cancel(self, job: Job, now: float) -> None:
        """Queued or running [DOC]; of a job that is over the status stays."""
        if not job.status.is_final:
            self._stop(job, Status.CANCELLED, now)

    def retry(self, job: Job) -> bool:
        """Only what failed or timed out can be retried [DOC]."""
        if job.status not in (Status.FAILED, Status.TIMED_OUT):
            return False
        job.retry()
        self.waiting.append(job)
        self._note("retried", job_id=job.id)
        return True

    def purge(self, now: float) -> int:
        """Removes what waits; what runs is not affected [DOC]."""
        removed = len(self.waiting)
        for job in self.waiting.copy():
            self.cancel(job, now)
            del self.jobs[job.id]
        return removed

    # The workers' side

    def take(self, worker_id: str, max_jobs: int, now: float) -> list[Job]:
        """The oldest that wait; those of low priority last."""
        self.waiting.sort(key=lambda job: job.policy.low_priority)
        taken, self.waiting = self.waiting[:max_jobs], self.waiting[max_jobs:]
        for job in taken:
            job.start(worker_id, now)
            self._note("taken", job_id=job.id, worker_id=worker_id)
        return taken

    def listed(self, worker_id: str, job_ids: list[str], now: float) -> None:
        """A ping has come, with the jobs that this worker says it has."""
        for job in self.held_by(worker_id):
            if job.id in job_ids:
                job.listed = now

    def stream(self, job_id: str, worker_id: str, output: Any) -> None:
        if job := self._job_of(job_id, worker_id, "job-stream"):
            job.unread.append(output)
            self._note("chunk", job_id=job_id, worker_id=worker_id, detail=f"{len(str(output))} characters")

    def done(self, job_id: str, worker_id: str, body: Json, now: float) -> None:
        """A result, or progress in the same place [SRC]."""
        if body.get("status") == "IN_PROGRESS":
            self._progress(job_id, worker_id, body.get("output"))
        elif job := self._job_of(job_id, worker_id, "job-done"):
            status = Status.FAILED if body.get("error") else Status.COMPLETED
            self._end(job, status, now, output=body.get("output"), error=body.get("error"))

    def _progress(self, job_id: str, worker_id: str, output: Any) -> None:
        job = self.jobs.get(job_id)
        if job and job.status.is_final and self._settings.late_progress_reverts:
            job.status = Status.IN_PROGRESS
        if job := self._job_of(job_id, worker_id, "progress"):
            job.output = output
            self._note("progress", job_id=job_id, worker_id=worker_id)

    def _job_of(self, job_id: str, worker_id: str, call: str) -> Job | None:
        job = self.jobs.get(job_id)
        if job and job.status is Status.IN_PROGRESS and job.worker_id == worker_id:
            return job
        self._note("ignored", job_id=job_id, worker_id=worker_id, detail=call)
        return None

    def worker_gone(self, worker_id: str, now: float) -> None:
        """All that it had goes back to the head of the queue, or fails if that happened too often."""
        self.stops.pop(worker_id, None)
        for job in reversed(self.held_by(worker_id)):
            self.give_back(job, now)

    def give_back(self, job: Job, now: float) -> None:
        if job.num_retries >= self._settings.max_retries:
            self._end(job, Status.FAILED, now, error="job was retried too many times: its workers died")
            return
        self._note("requeued", job_id=job.id, worker_id=job.worker_id)
        job.requeue(forget_stream=self._settings.forget_stream_on_retry)
        self.num_retried += 1
        self.waiting.insert(0, job)

    def undo_take(self, jobs: list[Job]) -> None:
        """The worker hung up before it got them."""
        for job in reversed([job for job in jobs if job.status is Status.IN_PROGRESS]):
            self._note("not_delivered", job_id=job.id, worker_id=job.worker_id)
            job.requeue(forget_stream=False)
            job.num_retries -= 1
            self.waiting.insert(0, job)

    # Time

    def tick(self, now: float) -> None:
        """Look at every deadline."""
        for job in list(self.jobs.values()):
            if job.finished is not None:
                if now - job.finished > self._retention(job):
                    del self.jobs[job.id]
                    self._note("forgotten", job_id=job.id)
            elif now - job.created > job.policy.ttl:
                self._expire(job, now)
            elif job.started is not None:
                self._tick_running(job, job.started, now)

    def _tick_running(self, job: Job, started: float, now: float) -> None:
        if now - started > job.policy.execution_timeout:
            self._stop(job, Status.TIMED_OUT, now)
        elif self._settings.lost_job_after is not None and now - job.listed > self._settings.lost_job_after:
            self.give_back(job, now)

    def _expire(self, job: Job, now: float) -> None:
        """Its time to live is over: TIMED_OUT if it waited; deleted if it ran, so that /status says 404 [DOC]."""
        was_running = job.status is Status.IN_PROGRESS
        self._stop(job, Status.TIMED_OUT, now)
        if was_running:
            del self.jobs[job.id]

    def _retention(self, job: Job) -> float:
        return self._settings.runsync_retention if job.is_sync else self._settings.run_retention

    def _stop(self, job: Job, status: Status, now: float) -> None:
        """End it from our side; its worker hears of it on its stop channel."""
        if job.status is Status.IN_QUEUE:
            self.waiting.remove(job)
        else:
            self.stops[job.worker_id].append(job.id)
        self._end(job, status, now)

    def _end(self, job: Job, status: Status, now: float, *, output: Any = None, error: Any = None) -> None:
        job.finish(status, now, output=output, error=error)
        self.num_completed += status is Status.COMPLETED
        self.num_failed += status in (Status.FAILED, Status.TIMED_OUT)
        self._note("ended", job_id=job.id, worker_id=job.worker_id, detail=status)
        self.on_end(job)
