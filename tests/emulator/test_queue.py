"""What becomes of jobs, with time as a number."""

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.runpod_emulator import Job, JobQueue, Policy, Settings, Status


class Queue(JobQueue):
    """A queue that keeps its notes."""

    def __init__(self, **settings: Any) -> None:
        self.notes: list[tuple[str, str]] = []
        super().__init__(Settings(**settings), self._keep)

    def _keep(self, name: str, *, job_id: str = "", worker_id: str = "", detail: str = "") -> None:
        self.notes.append((name, job_id))

    def add(self, now: float = 0.0, **fields: Any) -> Job:
        policy = Policy(execution_timeout=600, ttl=3600, **fields.pop("policy", {}))
        job = Job("input", policy, now, **fields)
        self.submit(job)
        return job

    def add_running(self, now: float = 0.0, **fields: Any) -> Job:
        job = self.add(now, **fields)
        assert self.take("w", 1, now) == [job]
        return job


def test_a_job_is_answered() -> None:
    """Waiting and working are told in milliseconds."""
    queue = Queue()
    job = queue.add(10)
    assert job.view(11) == {"id": job.id, "status": "IN_QUEUE"}
    queue.take("w", 8, 11.5)
    queue.done(job.id, "w", {"output": [1]}, 12)

    view = {"delayTime": 1500, "workerId": "w", "executionTime": 500, "output": [1]}
    assert job.view(13) == {"id": job.id, "status": "COMPLETED"} | view
    assert queue.num_completed == 1


def test_a_job_fails() -> None:
    """Any error makes it FAILED."""
    queue = Queue()
    job = queue.add_running()
    queue.done(job.id, "w", {"error": "no"}, 1)

    assert (job.status, job.view(1)["error"]) == (Status.FAILED, "no")


def test_first_come_first_served() -> None:
    """But those of low priority last."""
    queue = Queue()
    low, first, second = queue.add(policy={"low_priority": True}), queue.add(), queue.add()

    assert queue.take("w", 2, 0) == [first, second]
    assert queue.take("w", 2, 0) == [low]
    assert queue.take("w", 2, 0) == []


def test_streams_are_read_once() -> None:
    """What one reader got the next does not."""
    queue = Queue()
    job = queue.add_running()
    queue.stream(job.id, "w", "a")
    queue.stream(job.id, "w", "b")

    assert job.drain() == [{"output": "a"}, {"output": "b"}]
    assert job.drain() == []


def test_cancelled_while_it_waits() -> None:
    """No worker hears of it."""
    queue = Queue()
    job = queue.add()
    queue.cancel(job, 1)

    assert job.status is Status.CANCELLED
    assert (queue.take("w", 1, 1), queue.stops) == ([], {})


def test_cancelled_while_it_runs() -> None:
    """Its worker is told, and what it still posts is ignored."""
    queue = Queue()
    job = queue.add_running()
    queue.cancel(job, 1)
    queue.stream(job.id, "w", "late")
    queue.done(job.id, "w", {"output": "late"}, 2)
    queue.cancel(job, 3)

    assert (job.status, job.output, job.unread) == (Status.CANCELLED, None, [])
    assert queue.stops == {"w": [job.id]}
    assert queue.notes.count(("ignored", job.id)) == 2


def test_execution_timeout() -> None:
    """Counts from when a worker has it."""
    queue = Queue(lost_job_after=None)
    job = queue.add()
    queue.take("w", 1, 1000)
    queue.tick(1600)
    assert job.view(1600)["status"] == "IN_PROGRESS"
    queue.tick(1601)

    assert job.view(1601)["status"] == "TIMED_OUT"
    assert queue.stops == {"w": [job.id]}


def test_time_to_live() -> None:
    """Counts from the submission: who waits is TIMED_OUT, who runs is forgotten."""
    queue = Queue(lost_job_after=None)
    running = queue.add_running(policy={})
    running.policy = replace(running.policy, execution_timeout=10_000)
    waiting = queue.add()
    queue.tick(3601)

    assert waiting.status is Status.TIMED_OUT
    assert list(queue.jobs) == [waiting.id]
    assert queue.stops == {"w": [running.id]}


@pytest.mark.parametrize(("is_sync", "retention"), [(False, 1800), (True, 60)])
def test_retention(is_sync: bool, retention: float) -> None:
    """Half an hour for /run, a minute for /runsync."""
    queue = Queue()
    job = queue.add_running(is_sync=is_sync)
    queue.done(job.id, "w", {"output": 1}, 5)
    queue.tick(5 + retention)
    assert job.id in queue.jobs
    queue.tick(6 + retention)

    assert queue.jobs == {}
    assert job.id.startswith("sync-") is is_sync


def test_retry() -> None:
    """Of what failed, with the same id; the old output is gone."""
    queue = Queue()
    job = queue.add_running()
    assert not queue.retry(job)
    queue.stream(job.id, "w", "old")
    queue.done(job.id, "w", {"error": "no"}, 1)

    assert queue.retry(job)
    assert job.view(2) == {"id": job.id, "status": "IN_QUEUE"}
    assert (queue.take("w2", 1, 3), job.drain()) == ([job], [])


def test_worker_is_gone() -> None:
    """What it had goes to the head of the queue, in the old order."""
    queue = Queue()
    jobs = [queue.add() for _ in range(3)]
    queue.take("w", 2, 0)
    queue.worker_gone("w", 1)
    queue.done(jobs[0].id, "w", {"output": "late"}, 2)

    assert queue.take("w2", 3, 3) == jobs
    assert [job.num_retries for job in jobs] == [1, 1, 0]


def test_workers_die_too_often() -> None:
    """Then the job fails."""
    queue = Queue(max_retries=2)
    job = queue.add()
    for worker in ("w1", "w2", "w3"):
        queue.take(worker, 1, 0)
        queue.worker_gone(worker, 0)

    assert job.status is Status.FAILED
    assert "error" in job.view(0)


def test_lost_job() -> None:
    """Its worker lives, and does not list it in its pings."""
    queue = Queue(lost_job_after=5)
    listed, lost = queue.add_running(), queue.add_running()
    for now in (3, 6):
        queue.listed("w", [listed.id], now)
        queue.tick(now)

    assert listed.status is Status.IN_PROGRESS
    assert (lost.status, lost.num_retries) == (Status.IN_QUEUE, 1)


def test_take_that_did_not_arrive() -> None:
    """Is no retry."""
    queue = Queue()
    jobs = [queue.add(), queue.add()]
    queue.undo_take(queue.take("w", 2, 0))

    assert queue.take("w2", 2, 0) == jobs
    assert jobs[0].num_retries == 0


@pytest.mark.parametrize("reverts", [False, True])
def test_progress(reverts: bool) -> None:
    """Is shown as output while the job runs. After the end it once brought a job back."""
    queue = Queue(late_progress_reverts=reverts)
    job = queue.add_running()
    queue.done(job.id, "w", {"status": "IN_PROGRESS", "output": "50 %"}, 1)
    assert (job.status, job.view(1)["output"]) == (Status.IN_PROGRESS, "50 %")
    queue.done(job.id, "w", {"output": "all"}, 2)
    queue.done(job.id, "w", {"status": "IN_PROGRESS", "output": "99 %"}, 3)

    assert (job.status is Status.IN_PROGRESS, job.output) == (reverts, "99 %" if reverts else "all")


def test_purge() -> None:
    """Removes what waits."""
    queue = Queue()
    running = queue.add_running()
    for _ in range(3):
        queue.add()

    assert queue.purge(1) == 3
    assert list(queue.jobs) == [running.id]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost(seed: int) -> None:
    """Whatever happens in whatever order: in the end every job has ended, once."""
    draw, queue, now = random.Random(seed), Queue(max_retries=3, lost_job_after=30), 0.0
    for _ in range(300):
        now += draw.random() * 10
        worker, job = f"w{draw.randrange(3)}", draw.choice([*queue.jobs.values()] or [queue.add(now)])
        match draw.choice(["add", "add", "take", "done", "stream", "cancel", "gone", "tick"]):
            case "add":
                queue.add(now)
            case "take":
                queue.take(worker, draw.randrange(1, 4), now)
            case "done":
                queue.done(job.id, worker, {"output": 1}, now)
            case "stream":
                queue.stream(job.id, worker, 1)
            case "cancel":
                queue.cancel(job, now)
            case "gone":
                queue.worker_gone(worker, now)
            case "tick":
                queue.listed(worker, [held.id for held in queue.held_by(worker)], now)
                queue.tick(now)
        assert set(queue.waiting) == {job for job in queue.jobs.values() if job.status is Status.IN_QUEUE}
    while queue.waiting or queue.in_progress:
        for job in queue.take("last", 10, now) + queue.in_progress:
            queue.done(job.id, job.worker_id, {"output": 1}, now)

    ended = [job_id for name, job_id in queue.notes if name == "ended"]
    assert sorted(ended) == sorted({job_id for name, job_id in queue.notes if name == "submitted"})
