"""The stop channel: a job that no client waits for frees its slot, wherever it is just then, and nothing else stops.

Times prove nothing on a busy machine, so these stories look at the order of events: what the worker prints (each step,
each slot that is freed) between what happens on the platform.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract.stage import MANY, ODD_WORKER, Model, Stage, parse_events, stage
from tests.runpod_emulator import Event, Fault

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDLESS = {"prompt": "hello", "max_tokens": MANY, "stream": True}
STEPS = 2  # of the engine, from the SDK's stop to the free slot


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def slow(model: Model) -> AsyncIterator[Stage]:
    """One worker with two places, 20 ms a step, so that 4,000 tokens outlast any story."""
    env = {"ODD_TRACE": "1", "ODD_STEP_SECONDS": "0.02", "MAX_NUM_SEQS": "2", "MAX_CONCURRENCY": "4"}
    async with stage(model, command=ODD_WORKER, env=env) as slow:
        await slow.worker()
        yield slow


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def still_answers(slow: Stage) -> AsyncIterator[None]:
    """Every story leaves a worker behind that has both places free, and no fault."""
    yield
    slow.emulator.faults.clear()
    jobs = await asyncio.gather(*[slow.runsync({"prompt": f"hello {n}", "max_tokens": 2}) for n in range(2)])
    assert [job["status"] for job in jobs] == 2 * ["COMPLETED"]
    assert not slow.queue.in_progress


def num_steps(stage: Stage, start: Event, end: Event) -> int:
    between = stage.log.events[start.number : end.number]
    return sum(event.name == "log" and event.detail == "odd: step" for event in between)


async def frees_its_slot(stage: Stage, job_id: str) -> None:
    """After the SDK has stopped it."""
    stopping = await stage.prints(f'"{job_id}", "message": "Stopping job."')
    freed = await stage.prints("odd: slot freed", after=stopping)
    assert num_steps(stage, stopping, freed) <= STEPS


async def test_during_generation(slow: Stage) -> None:
    """Between two posts the handler is cancelled where it waits."""
    job_id = await slow.run(ENDLESS)
    await slow.happens("chunk", job_id=job_id, times=3)
    await slow.cancel(job_id)

    await frees_its_slot(slow, job_id)
    assert (await slow.status(job_id))["status"] == "CANCELLED"


async def test_during_a_post(slow: Stage) -> None:
    """The SDK leaves the handler suspended for good then. The slot is free before the post is answered."""
    gate = asyncio.Event()
    slow.emulator.faults.add(Fault("job-stream", gate=gate))
    job_id = await slow.run(ENDLESS)
    await slow.happens("held")
    await slow.cancel(job_id)

    await frees_its_slot(slow, job_id)
    assert not slow.log.find("chunk", job_id=job_id)
    gate.set()


async def test_answer_that_is_not_streamed(slow: Stage) -> None:
    """It has posted nothing yet."""
    job_id = await slow.run({**ENDLESS, "stream": False})
    await slow.prints("odd: step", after=await slow.happens("taken", job_id=job_id))
    await slow.cancel(job_id)

    await frees_its_slot(slow, job_id)


async def test_queued_on_the_platform(slow: Stage) -> None:
    """No worker ever sees it."""
    running = [await slow.run(ENDLESS) for _ in range(4)]  # all that the worker takes
    for job_id in running:
        await slow.prints(f"job {job_id}: started")
    queued = await slow.run(ENDLESS)
    await slow.cancel(queued)
    for job_id in running:
        await slow.cancel(job_id)
        await slow.prints(f"job {job_id}: stopped")

    assert not slow.log.find("taken", job_id=queued)
    assert (await slow.status(queued))["status"] == "CANCELLED"


async def test_queued_in_the_sdk(slow: Stage) -> None:
    """For up to 100 ms the SDK has a job that it cannot stop [SRC]. It ends by itself, unheard."""
    job_id = await slow.run({"prompt": "hello", "max_tokens": 5})
    await slow.happens("taken", job_id=job_id)
    await slow.cancel(job_id)
    await slow.prints(f"job {job_id}: ", after=await slow.prints(f"job {job_id}: started"))

    assert (await slow.status(job_id))["status"] == "CANCELLED"


async def test_queued_in_the_engine(slow: Stage) -> None:
    """The worker has taken it, and both places are occupied: it goes before it was ever computed."""
    running = [await slow.run(ENDLESS) for _ in range(2)]
    for job_id in running:
        await slow.happens("chunk", job_id=job_id)
    queued = await slow.run(ENDLESS)
    await slow.prints(f"job {queued}: started")
    await slow.cancel(queued)
    await slow.prints(f"job {queued}: stopped")

    for job_id in running:  # which go on
        await slow.happens("chunk", job_id=job_id, times=len(slow.log.find("chunk", job_id=job_id)) + 3)
        await slow.cancel(job_id)
        await slow.prints(f"job {job_id}: stopped")
    assert not slow.log.find("chunk", job_id=queued)


async def test_its_neighbour_goes_on(slow: Stage) -> None:
    """Jobs are stopped one by one; the other one's answer is whole."""
    stopped, other = await slow.run(ENDLESS), await slow.run({**ENDLESS, "max_tokens": 60})
    for job_id in (stopped, other):
        await slow.happens("chunk", job_id=job_id)
    await slow.cancel(stopped)
    job = await slow.ends(other)

    assert job["status"] == "COMPLETED"
    assert parse_events("".join(job["output"]))[-1]["choices"][0]["finish_reason"] == "length"


async def test_execution_timeout(slow: Stage) -> None:
    """To the worker it is a stop like any other."""
    job_id = await slow.run(ENDLESS, policy={"executionTimeout": 300_000})
    await slow.happens("chunk", job_id=job_id)
    assert not slow.log.find("ended", job_id=job_id)
    for job in slow.queue.in_progress:
        assert job.started is not None
        job.started -= 300  # it has run for so long already

    await frees_its_slot(slow, job_id)
    assert (await slow.status(job_id))["status"] == "TIMED_OUT"


async def test_time_to_live(slow: Stage) -> None:
    """Over while the job runs, the platform forgets it altogether."""
    job_id = await slow.run(ENDLESS, policy={"ttl": 300_000})
    await slow.happens("chunk", job_id=job_id)
    slow.queue.jobs[job_id].created -= 300

    await frees_its_slot(slow, job_id)
    assert (await slow.call("GET", f"status/{job_id}"))[0] == 404


async def test_what_a_stopped_job_still_posts_is_ignored(slow: Stage) -> None:
    """The platform says 200, and the job stays what it was."""
    gate = asyncio.Event()
    slow.emulator.faults.add(Fault("job-done", gate=gate))
    job_id = await slow.run({"prompt": "hello", "max_tokens": 2})
    await slow.happens("held", times=1 + len(slow.log.find("held")))
    await slow.cancel(job_id)
    gate.set()

    assert (await slow.ends(job_id))["status"] == "CANCELLED"
