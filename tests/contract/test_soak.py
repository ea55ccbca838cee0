"""Many jobs on a bad day: clients cancel, workers are killed, posts fail. Every job ends, and ends once."""

import asyncio
import random
from dataclasses import replace
from typing import Any, Literal

from tests.contract.stage import ODD_WORKER, SETTINGS, Model, Stage, content, parse_events, stage
from tests.runpod_emulator import Fault, Job, Json, State, Status

SEED = 3
NUM_JOBS = 200
NUM_KILLS = 4
FAILING = 0.05  # of the posts, with 500; and as many results are taken and then answered with 500
PLACES = 8

CancelWhen = Literal["never", "submitted", "taken", "chunk"]


def job_input(number: int, draw: random.Random) -> Json:
    """Its answer tells whose it is, by the echo, and whether it is whole, by the usage."""
    stream = {"stream": True, "stream_options": {"include_usage": True}} if draw.random() < 0.5 else {}
    return {"prompt": f"job {number}:", "echo": True, "max_tokens": draw.choice((3, 20, 60)), **stream}


async def client(here: Stage, job_input: Json, cancel_when: CancelWhen) -> tuple[str, bool]:
    """Submits a job and perhaps cancels it at that moment. Returns its id and whether it was told to be cancelled."""
    job_id = await here.run(job_input)
    job = here.queue.jobs[job_id]
    if cancel_when == "never":
        return job_id, False
    if cancel_when != "submitted":
        await here.until(lambda: has_reached(job, cancel_when))
    await here.cancel(job_id)
    return job_id, job.status is Status.CANCELLED


def has_reached(job: Job, moment: CancelWhen) -> bool:
    return job.status.is_final or (bool(job.unread) if moment == "chunk" else job.status is Status.IN_PROGRESS)


async def kill_workers(here: Stage) -> None:
    """One that works, each time another share of the jobs is over."""
    for number in range(1, NUM_KILLS + 1):
        await here.happens("ended", times=number * NUM_JOBS // (NUM_KILLS + 1))
        busy = await here.until(
            lambda: [worker for worker in here.fleet.of_state(State.READY) if here.queue.held_by(worker.id)]
        )
        here.fleet.kill(busy[0])


async def test_two_hundred_jobs(model: Model) -> None:
    draw = random.Random(SEED)
    settings = replace(SETTINGS, max_retries=NUM_KILLS + 2)
    moments: list[CancelWhen] = ["never", "never", "never", "submitted", "taken", "chunk"]
    env = {"ODD_STEP_SECONDS": "0.005", "MAX_NUM_SEQS": str(PLACES), "MAX_CONCURRENCY": str(PLACES)}
    async with stage(model, settings=settings, command=ODD_WORKER, env=env, min_workers=2, max_workers=2) as here:
        for call in ("job-stream", "job-done"):
            here.emulator.faults.add(Fault(call, status=500, probability=FAILING))
        here.emulator.faults.add(Fault("job-done", status=500, when="after", probability=FAILING))
        inputs = [job_input(number, draw) for number in range(NUM_JOBS)]
        killing = asyncio.create_task(kill_workers(here))
        results = await asyncio.gather(*[client(here, given, draw.choice(moments)) for given in inputs])
        jobs = [await here.ends(job_id) for job_id, _ in results]
        await killing

        for given, job, (job_id, is_cancelled) in zip(inputs, jobs, results, strict=True):
            assert job["status"] == ("CANCELLED" if is_cancelled else "COMPLETED"), job
            assert len(here.log.find("ended", job_id=job_id)) == 1
            assert is_cancelled or is_whole(given, job["output"])
        assert not here.queue.in_progress
        assert not here.queue.waiting
        assert here.queue.num_retried
        assert here.log.find("fault")


def is_whole(given: Json, output: list[Any]) -> bool:
    """The answer to this job's question, to its end."""
    text = content("".join(output)) if "stream" in given else output[0]["choices"][0]["text"]
    usage = parse_events("".join(output))[-1]["usage"] if "stream" in given else output[0]["usage"]
    return str(text).startswith(given["prompt"]) and bool(usage["completion_tokens"] == given["max_tokens"])
