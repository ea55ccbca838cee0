"""Another model answers while a worker starts."""

import asyncio
import json

import pytest

from local_gateway.errors import TargetUnreachableError
from local_gateway.wire.worker_list import SeenWorker
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


# wake: cheaper


def priced(other_cost: float) -> dict[str, object]:
    """A start of the endpoint is expected to cost 30, an answer of the other model, two tokens, `other_cost`."""
    endpoint = {"type": "runpod_queue", "endpoint_id": "ep", "api_key": "k", "name": "cold", "worker_price": 1}
    other = {"type": "openai", "name": "warm", "price": {"completion": 1_000_000 * other_cost / 2}}
    return {
        "llama": {"targets": [endpoint], "cold_start": {"after": 60, "use": "other", "wake": "cheaper"}},
        "other": {"targets": [other]},
    }


def see(here: Running, *workers: SeenWorker) -> None:
    """A look at the endpoint's workers."""
    watch = here.gateway.active.targets["llama"][0].worker_watch
    assert watch is not None
    watch.runs.look(0, workers)


async def test_waking_that_would_cost_more() -> None:
    """The other answers until it has cost as much as a start; then one request wakes the worker, and it begins anew."""
    cold = ScriptedBackend(stream_answer("hi"))
    warm = ScriptedBackend(*(stream_answer("a") for _ in range(4)))
    async with running(priced(10), cold, warm) as here:
        see(here)
        answering = [await target_that_answered(here) for _ in range(5)]

    assert answering == ["warm", "warm", "warm", "cold", "warm"]


async def test_a_worker_that_runs() -> None:
    """Is asked, and so is one of which nothing is known."""
    cold = ScriptedBackend(stream_answer("hi"), stream_answer("hi"))
    async with running(priced(1), cold, ScriptedBackend()) as here:
        unknown = await target_that_answered(here)
        see(here, SeenWorker("w", 0.0, 5.0, False))
        assert [unknown, await target_that_answered(here)] == ["cold", "cold"]


async def test_another_model_that_fails() -> None:
    """Then the worker is woken, and its answer is no loss."""
    cold = ScriptedBackend(stream_answer("hi"))
    warm = ScriptedBackend(json_answer({"error": "no"}, 400), stream_answer("a"))
    async with running(priced(100), cold, warm) as here:
        see(here)
        assert [await target_that_answered(here), await target_that_answered(here)] == ["cold", "warm"]


async def test_a_diverted_request_is_followed_by_a_look() -> None:
    """Another gateway may have woken the worker: the endpoint is looked at eagerly while requests come."""
    async with running(priced(1), ScriptedBackend(), ScriptedBackend(stream_answer("a"))) as here:
        see(here)
        watch = here.gateway.active.targets["llama"][0].worker_watch
        assert watch is not None
        assert not watch.is_eager
        await target_that_answered(here)
        assert watch.is_eager
