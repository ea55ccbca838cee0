"""A worker that cannot work says so and goes, and the platform takes another."""

import json
from pathlib import Path

from tests.contract.stage import MANY, ODD_WORKER, Model, parse_events, stage

SHORT = {"prompt": "hello", "max_tokens": 3}


async def test_model_that_does_not_answer(model: Model, tmp_path: Path) -> None:
    """The fitness check asks it for a token before the first job is taken."""
    broken = tmp_path / "broken"
    broken.touch()
    async with stage(model, command=ODD_WORKER, env={"ODD_BROKEN": str(broken)}) as here:
        job_id = await here.run(SHORT)
        unhealthy = await here.happens("worker_unhealthy", worker_id="ep-w1")
        gone = await here.happens("worker_gone", worker_id="ep-w1")
        assert not here.log.find("taken")
        broken.unlink()
        job = await here.ends(job_id)

    assert unhealthy.detail.startswith("model_answers: EngineError")
    assert gone.detail == "exit code 1"
    assert job["status"] == "COMPLETED"


async def test_model_that_is_not_there(model: Model, tmp_path: Path) -> None:
    """It says in one line what is wrong, and ends."""
    async with stage(model, env={"MODEL": str(tmp_path / "none.gguf")}, starts=False) as here:
        worker = here.fleet.start()
        gone = await here.happens("worker_gone", worker_id=worker.id)

        assert gone.detail == "exit code 1"
        assert "error: " in here.printed()
        assert "Traceback" not in here.printed()


async def test_engine_that_dies(model: Model, tmp_path: Path) -> None:
    """Jobs that run are told first; then the worker reports itself and ends; the next one answers those that wait."""
    broken = tmp_path / "broken"
    env = {"ODD_BROKEN": str(broken), "ODD_STEP_SECONDS": "0.02"}
    async with stage(model, command=ODD_WORKER, env=env) as here:
        endless = {"prompt": "hello", "max_tokens": MANY}
        streamed, whole = await here.run({**endless, "stream": True}), await here.run(endless)
        await here.happens("chunk", job_id=streamed)
        await here.prints(f"job {whole}: started")
        broken.touch()
        await here.prints("The engine thread broke down", worker_id="ep-w1")
        late = [await here.run(SHORT) for _ in range(5)]
        told = [await here.ends(job_id) for job_id in (streamed, whole)]
        unhealthy = await here.happens("worker_unhealthy", worker_id="ep-w1")
        gone = await here.happens("worker_gone", worker_id="ep-w1")
        broken.unlink()
        jobs = [await here.ends(job_id) for job_id in late]

        assert all(here.log.find("ended", job_id=job_id)[0].number < unhealthy.number for job_id in (streamed, whole))
    *_, event = parse_events("".join(told[0]["output"]))
    assert event["error"]["code"] == "engine_error"
    assert json.loads(told[1]["error"])["error"]["code"] == "engine_error"
    assert unhealthy.detail.startswith("model_answers: UnavailableError")
    assert gone.detail == "exit code 1"
    assert [job["status"] for job in jobs] == 5 * ["COMPLETED"]
    assert not any(job["workerId"] == "ep-w1" for job in jobs)
