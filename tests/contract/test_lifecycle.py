"""Workers come and go: started on demand, drained, killed, frozen; what the SDK loses comes back."""

import asyncio
from dataclasses import replace

import pytest

from tests.contract.stage import MANY, ODD_WORKER, SETTINGS, Model, Stage, content, stage
from tests.runpod_emulator import Fault, Json

MINUTE = 60.0
SLOW = {"ODD_STEP_SECONDS": "0.02"}
FROZEN = {"ODD_FROZEN_SECONDS": str(MINUTE)}
STREAM: Json = {"prompt": "hello", "temperature": 0, "max_tokens": 60, "stream": True}
SHORT: Json = {"prompt": "hello", "temperature": 0, "max_tokens": 3}


async def test_started_on_demand_and_stopped_when_idle(model: Model) -> None:
    """From zero to zero, twice; a worker without work ends by itself when it is told to."""
    async with stage(model, idle_timeout=0.1, cold_start=0.2) as here:
        for number in (1, 2):
            assert (await here.runsync(SHORT))["workerId"] == f"ep-w{number}"
            gone = await here.happens("worker_gone", worker_id=f"ep-w{number}")
            assert gone.detail == "exit code 0"

        assert not here.log.find("worker_killed")


async def test_sigterm(model: Model) -> None:
    """What runs is finished; what comes is for the next worker."""
    async with stage(model, command=ODD_WORKER, env=SLOW) as here:
        running = [await here.run(STREAM) for _ in range(2)]
        for job_id in running:
            await here.happens("chunk", job_id=job_id)
        here.fleet.stop(await here.worker())
        late = await here.run(SHORT)
        jobs = [await here.ends(job_id) for job_id in (*running, late)]
        gone = await here.happens("worker_gone", worker_id="ep-w1")

    assert [(job["status"], job["workerId"]) for job in jobs] == [
        ("COMPLETED", "ep-w1"),
        ("COMPLETED", "ep-w1"),
        ("COMPLETED", "ep-w2"),
    ]
    assert not any("retries" in job for job in jobs)
    assert gone.detail == "exit code 0"


async def test_job_given_to_a_stopping_worker(model: Model) -> None:
    """Its last poll may bring a job that the SDK never starts [SRC]. When it is gone another worker does."""
    settings = replace(SETTINGS, gives_to_stopping=True, take_hold=5)
    async with stage(model, settings=settings, command=ODD_WORKER, env=SLOW) as here:
        running = await here.run(STREAM)
        await here.happens("chunk", job_id=running)
        here.fleet.stop(await here.worker())
        await here.happens("chunk", job_id=running, times=20)  # by then the SDK has stopped to start jobs
        late = await here.run(SHORT)
        first, second = await here.ends(running), await here.ends(late)

    assert (first["status"], first["workerId"]) == ("COMPLETED", "ep-w1")
    assert (second["status"], second["workerId"], second["retries"]) == ("COMPLETED", "ep-w2", 1)


async def test_killed_in_mid_job(model: Model) -> None:
    """The job goes to another worker; its client only waits longer."""
    async with stage(model, command=ODD_WORKER, env=SLOW) as here, here.openai() as client:
        job_id = await here.run(STREAM)
        asking = asyncio.create_task(client.completions.create(model="model", prompt="hello", max_tokens=60))
        await here.happens("taken", times=2)
        await here.happens("chunk", job_id=job_id)
        here.fleet.kill(await here.worker())
        job, answer = await here.ends(job_id), await asking

    assert (job["status"], job["workerId"], job["retries"]) == ("COMPLETED", "ep-w2", 1)
    assert content("".join(job["output"]))
    assert answer.choices[0].finish_reason == "length"


async def test_frozen_for_a_minute_while_idle(model: Model) -> None:
    """FlashBoot's freeze: the poll that was open then is cut off, and clocks have jumped when it thaws."""
    async with stage(model, command=ODD_WORKER, env=FROZEN, flashboot=True, idle_timeout=0.1) as here:
        gate = asyncio.Event()
        first = await here.runsync(SHORT)
        here.emulator.faults.add(Fault("job-take", gate=gate, drops=True))
        here.emulator.faults.add(Fault("job-take-batch", gate=gate, drops=True))
        frozen = await here.happens("worker_frozen")
        gate.set()
        await here.stands_still(here.fleet.workers[frozen.worker_id])
        here.log.clock.advance(MINUTE)
        here.emulator.faults.clear()
        second = await here.runsync(SHORT)
        await here.prints("clocks jumped")

        assert first["workerId"] == second["workerId"]
        assert first["output"][0]["choices"] == second["output"][0]["choices"]
    assert_undisturbed(here)


async def test_frozen_for_a_minute_while_it_works(model: Model) -> None:
    """The machine stands still: the job goes on where it was."""
    settings = replace(SETTINGS, ping_deadline=1000, lost_job_after=None)
    async with stage(model, settings=settings, command=ODD_WORKER, env=SLOW | FROZEN) as here:
        job_id = await here.run(STREAM)
        await here.happens("chunk", job_id=job_id)
        worker = await here.worker()
        assert worker.process is not None
        worker.process.freeze()
        await here.stands_still(worker)
        here.log.clock.advance(MINUTE)
        worker.process.thaw()
        await here.prints("clocks jumped")
        job = await here.ends(job_id)
        other = await here.runsync(SHORT)

        assert (job["status"], other["status"]) == ("COMPLETED", "COMPLETED")
    assert_undisturbed(here)


def assert_undisturbed(here: Stage) -> None:
    """No worker was lost, and no job was started twice."""
    assert "Traceback" not in here.printed()
    assert not here.log.find("worker_killed")
    assert not here.log.find("requeued")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("job-done", status=500, num_times=3),
        Fault("job-done", status=404, num_times=1),
        Fault("job-done", drops=True, num_times=1),
    ],
    ids=["500 three times", "404", "connection lost"],
)
async def test_lost_result(model: Model, fault: Fault) -> None:
    """The SDK gives up and goes on. The worker's pings list the job no more, so the platform starts it again."""
    async with stage(model) as here:
        here.emulator.faults.add(fault)
        job_id = await here.run(SHORT)
        await here.happens("fault", times=fault.num_times or 1)
        assert SETTINGS.lost_job_after is not None
        here.log.clock.advance(SETTINGS.lost_job_after)
        job = await here.ends(job_id)

    assert (job["status"], job["retries"]) == ("COMPLETED", 1)


async def test_result_with_a_lost_answer(model: Model) -> None:
    """The SDK posts it again; the job is answered once."""
    async with stage(model) as here:
        here.emulator.faults.add(Fault("job-done", status=502, when="after", num_times=1))
        job_id = await here.run(SHORT)
        job = await here.ends(job_id)
        await here.happens("ignored", job_id=job_id)

        assert len(here.log.find("ended", job_id=job_id)) == 1
    assert job["status"] == "COMPLETED"


async def test_platform_that_refuses(model: Model) -> None:
    """400 is "expected with FlashBoot", 429 a pause, 500 an error to the SDK: the worker asks again."""
    async with stage(model) as here:
        for status in (400, 500, 429):
            here.emulator.faults.add(Fault("job-take", status=status, num_times=1))
            here.emulator.faults.add(Fault("job-take-batch", status=status, num_times=1))
        here.emulator.faults.add(Fault("job-stop", status=500, num_times=1))
        here.emulator.faults.add(Fault("ping", status=503, num_times=1))

        assert (await here.runsync(SHORT))["status"] == "COMPLETED"


async def test_endless_job_of_a_worker_that_is_stopped(model: Model) -> None:
    """The grace is over, SIGKILL follows, and the job is the next worker's, until it may not be retried again."""
    settings = replace(SETTINGS, max_retries=0)
    async with stage(model, settings=settings, command=ODD_WORKER, env=SLOW, grace=0.5) as here:
        job_id = await here.run({**STREAM, "max_tokens": MANY})
        await here.happens("chunk", job_id=job_id)
        here.fleet.stop(await here.worker())
        job = await here.ends(job_id)

    assert job["status"] == "FAILED"
    assert here.log.find("worker_killed")
