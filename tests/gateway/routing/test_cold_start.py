"""Another model answers while a worker starts."""

import asyncio
import json

import pytest

from local_gateway.errors import TargetUnreachableError
from tests.gateway.running_gateway import Running, running
from tests.gateway.targets.scripted import DONE, ScriptedBackend, ScriptedUpstream, chunk, json_answer, stream_answer

CHAT = "/v1/chat/completions"
ASK = {"model": "llama", "stream": True}


def models(after: float) -> dict[str, object]:
    return {
        "llama": {"targets": [{"type": "openai", "name": "cold"}], "cold_start": {"after": after, "use": "other"}},
        "other": {"targets": [{"type": "openai", "name": "warm"}]},
    }


async def target_that_answered(here: Running) -> str:
    response = await here.client.post(CHAT, ASK)
    return response.headers.get("x-gateway-target", str(response.status))


async def warmed_up(here: Running) -> None:
    (target,) = here.gateway.active.targets["llama"]
    assert target.warm_up is not None
    await asyncio.wait([target.warm_up])
    assert target.warm_up is None


async def test_warm_target() -> None:
    """It answers in time, and the other is not asked."""
    other = ScriptedBackend()
    async with running(models(60), ScriptedBackend(stream_answer("hi")), other) as here:
        assert await target_that_answered(here) == "cold"

    assert not other.calls


async def test_cold_target() -> None:
    """The other answers; the worker goes on starting, and takes over when it is there."""
    ready = asyncio.Event()
    unread = ScriptedUpstream([chunk("late"), asyncio.Event()])
    cold = ScriptedBackend(ready, unread, stream_answer("warm"))
    warm = ScriptedBackend(stream_answer("a"), stream_answer("b"))
    async with running(models(0.01), cold, warm) as here:
        assert await target_that_answered(here) == "warm"
        assert await target_that_answered(here) == "warm"
        assert len(cold.calls) == 1  # one request is enough to start a worker
        ready.set()
        await warmed_up(here)
        assert await target_that_answered(here) == "cold"

    assert unread.is_closed


async def test_other_that_fails() -> None:
    """Then the first is waited for."""
    ready = asyncio.Event()
    cold = ScriptedBackend(ready, stream_answer("hi"))
    warm = ScriptedBackend(json_answer({"error": "no"}, 400))
    async with running(models(0), cold, warm) as here:
        asking = asyncio.create_task(target_that_answered(here))
        await warm.called.wait()
        ready.set()
        assert await asking == "cold"


async def test_first_that_fails_fast() -> None:
    """Its error is the answer: it was not cold, it was broken, and fallbacks are for that."""
    cold = ScriptedBackend(json_answer({"error": {"message": "bad", "code": "x"}}, 400))
    other = ScriptedBackend()
    async with running(models(60), cold, other) as here:
        assert await target_that_answered(here) == "400"

    assert not other.calls


async def test_both_fail() -> None:
    """The client is told what the model it asked for said."""
    ready = asyncio.Event()
    cold = ScriptedBackend(ready, json_answer({"error": {"message": "mine", "code": "x"}}, 400))
    warm = ScriptedBackend(json_answer({"error": {"message": "other's", "code": "y"}}, 400))
    async with running(models(0), cold, warm, timeouts={"commit": 60}) as here:
        asking = asyncio.create_task(here.client.post(CHAT, ASK))
        await warm.called.wait()
        ready.set()
        response = await asking

    assert response.json()["error"]["message"] == "mine"


@pytest.mark.parametrize("error", [TargetUnreachableError("down"), None])
async def test_warm_up_that_ends(error: TargetUnreachableError | None) -> None:
    """However it ends, the next request asks the worker again."""
    ready = asyncio.Event()
    outcome = [error] * 4 if error else [ScriptedUpstream([chunk("x")])]
    cold = ScriptedBackend(ready, *outcome, stream_answer("back"))
    async with running(models(0.01), cold, ScriptedBackend(stream_answer("a"))) as here:
        assert await target_that_answered(here) == "warm"
        ready.set()
        await warmed_up(here)
        assert await target_that_answered(here) == "cold"


async def test_client_that_leaves() -> None:
    """Nothing goes on anywhere, but for the start of the worker if the other had already answered."""
    cold, warm = ScriptedBackend(asyncio.Event()), ScriptedBackend(asyncio.Event())
    async with running(models(0), cold, warm) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(ASK).encode())
        await warm.called.wait()
        response.hung_up.set()
        await work

    assert (cold.num_cancelled, warm.num_cancelled) == (1, 1)


async def test_stop_while_warming_up() -> None:
    """The gateway does not wait for a worker that no client waits for."""
    upstream = stream_answer("a")
    cold = ScriptedBackend(asyncio.Event())
    async with running(models(0), cold, ScriptedBackend(upstream)) as here:
        response = await here.client.post(CHAT, ASK)
        assert response.body.endswith(DONE)

    assert cold.num_cancelled == 1
