"""A load-balancing endpoint: the same worker over plain HTTP, with no SDK between it and the client."""

import aiohttp
import pytest

from tests.contract.stage import MANY, ODD_WORKER, Model, Stage, stage
from tests.runpod_emulator import State

COMMAND = (*ODD_WORKER, "serve")
SLOW = {"ODD_STEP_SECONDS": "0.02", "ODD_TRACE": "1"}
HEADER = "X-Runpod-Worker-Id"


def url(here: Stage) -> str:
    return f"{here.emulator.url}/lb/ep/v1"


async def complete(here: Stage, affinity: str = "", **fields: object) -> tuple[int, str, str]:
    """Status, worker and text of an answer."""
    headers = {**here.headers, HEADER: affinity}
    body = {"prompt": "hello", "max_tokens": 3, **fields}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url(here)}/completions", json=body, headers=headers) as answer,
    ):
        return answer.status, answer.headers.get(HEADER, ""), await answer.text()


async def test_cold_start_and_stream(model: Model) -> None:
    """204 while it loads, then 200; the request that woke it waits and streams; errors keep their status."""
    async with stage(model, kind="load_balancing", command=COMMAND) as here, here.openai(url(here)) as client:
        chunks = [
            chunk async for chunk in await client.completions.create(
                model="model", prompt="hello", max_tokens=5, stream=True
            )
        ]  # fmt: skip
        status, worker_id, text = await complete(here, model="gpt-5")

    assert chunks[-1].choices[0].finish_reason == "length"
    assert (status, worker_id) == (404, "ep-w1")
    assert "model_not_found" in text


async def test_affinity(model: Model) -> None:
    """A conversation stays with the worker that has it cached; one that is gone is said to be gone."""
    async with stage(
        model, kind="load_balancing", command=COMMAND, min_workers=2, max_workers=2, restart_pause=1000
    ) as here:
        await here.until(lambda: len(here.fleet.of_state(State.READY)) == 2)
        for worker_id in ("ep-w2", "ep-w1", "ep-w2"):
            for manner in ("", "strict "):
                assert (await complete(here, manner + worker_id))[:2] == (200, worker_id)
        here.fleet.kill(here.fleet.workers["ep-w2"])
        await here.happens("worker_gone", worker_id="ep-w2")

        assert (await complete(here, "ep-w2"))[:2] == (200, "ep-w1")
        status, _, text = await complete(here, "strict ep-w2")
        assert (status, "affinity_worker_gone" in text) == (404, True)


async def test_client_that_hangs_up(model: Model) -> None:
    """Its slot is free, without a stop channel."""
    async with stage(model, kind="load_balancing", command=COMMAND, env=SLOW) as here, here.openai(url(here)) as client:
        stream = await client.completions.create(model="model", prompt="hello", max_tokens=MANY, stream=True)
        await anext(aiter(stream))
        await stream.close()

        await here.prints("odd: slot freed")


async def test_sigterm(model: Model) -> None:
    """What runs is finished, then the worker ends."""
    async with stage(model, kind="load_balancing", command=COMMAND, env=SLOW) as here, here.openai(url(here)) as client:
        stream = await client.completions.create(model="model", prompt="hello", max_tokens=60, stream=True)
        chunks = [await anext(aiter(stream))]
        here.fleet.stop(here.fleet.workers["ep-w1"])
        chunks += [chunk async for chunk in stream]
        gone = await here.happens("worker_gone", worker_id="ep-w1")

    assert chunks[-1].choices[0].finish_reason == "length"
    assert gone.detail.startswith("exit code")


async def test_engine_that_dies(model: Model) -> None:
    """/ping says 503 until it ends: by one or the other the platform notices, and starts another."""
    broken = model.home / "broken-lb"
    env = {"ODD_BROKEN": str(broken)}
    async with stage(model, kind="load_balancing", command=COMMAND, env=env) as here:
        assert (await complete(here))[0] == 200
        broken.touch()
        status, _, text = await complete(here)
        assert (status, "engine_error" in text) == (500, True)
        await here.happens("worker_gone", worker_id="ep-w1")
        broken.unlink()

        assert (await complete(here))[:2] == (200, "ep-w2")


@pytest.mark.model
async def test_paris(demo: Model) -> None:
    """The demo model, in English."""
    env = {"N_THREADS": "0"}
    async with stage(demo, kind="load_balancing", command=COMMAND, env=env) as here, here.openai(url(here)) as client:
        answer = await client.chat.completions.create(
            model="model",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            max_tokens=20,
        )

    assert "Paris" in str(answer.choices[0].message.content)
