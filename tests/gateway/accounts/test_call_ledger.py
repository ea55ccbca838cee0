"""What calls to targets cost when they give no answer."""

import asyncio
import contextlib
import json
from typing import Any

import pytest

from local_gateway.errors import RequestError, TargetConfigError, TargetRefusedError, TargetTimeoutError
from local_gateway.wire.call_ledger import CallLedger, CallTally, ExecutionStats
from tests.gateway.running_gateway import running
from tests.gateway.targets.never_asked import FakeClock
from tests.gateway.targets.scripted import ROLE, ScriptedBackend, ScriptedUpstream, json_answer, stream_answer

CHAT = "/v1/chat/completions"
ASK = {"model": "llama", "messages": [{"role": "user", "content": "x" * 4000}]}
PROMPT_COST = 1.0  # about: 4,000 bytes are some 1,000 tokens


def models(**price: float) -> dict[str, Any]:
    return {"llama": {"targets": [{"type": "openai", "name": "one", "price": price}]}}


@pytest.mark.parametrize(
    ("error", "is_refused"),
    [
        (None, False),
        (TargetTimeoutError("silent"), False),
        (TargetRefusedError(500), False),
        (TargetRefusedError(400), True),
        (TargetRefusedError(429), True),
        (TargetRefusedError(503), True),
        (TargetConfigError("no key"), True),
        (asyncio.CancelledError(), False),
    ],
)
def test_what_a_call_is(error: BaseException | None, is_refused: bool) -> None:
    """A target that refuses says that it has not begun; all else may have been work."""
    time = FakeClock()
    tally = CallTally("one", clock=time)
    with contextlib.suppress(RequestError, asyncio.CancelledError), tally:
        tally.started()
        time.now += 4
        if error:
            raise error
    time.now += 100

    assert (tally.is_refused, tally.is_over, tally.seconds) == (is_refused, True, 4.0)


def test_a_call_is_charged_once() -> None:
    """By its own request, or by one that waited for the same answer; and not while it runs, or if it was never sent."""
    first, second = CallLedger(), CallLedger()
    second.adopt(first)
    running, never = first.begin("one", CallTally().price), first.begin("two", CallTally().price)
    running.started()
    with never:
        pass

    assert list(first.take_uncharged()) == []
    with running:
        pass
    assert list(second.take_uncharged()) == [running]
    assert list(first.take_uncharged()) == []


@pytest.mark.parametrize("is_stream", [False, True])
async def test_client_that_leaves_before_the_answer(is_stream: bool) -> None:
    """The prompt was sent, so it is paid for."""
    backend = ScriptedBackend(asyncio.Event())
    async with running(models(prompt=1000.0), backend) as here:
        response, work = here.client.start("POST", CHAT, _json({**ASK, "stream": is_stream}))
        await backend.called.wait()
        response.hung_up.set()
        await work

    assert here.record.outcome == "client_left"
    assert here.record.cost == pytest.approx(PROMPT_COST, rel=0.1)
    assert (here.record.num_prompt_tokens > 900, here.record.is_estimated) == (True, True)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_client_that_leaves_a_gpu(is_stream: bool) -> None:
    """What the platform says that its GPU worked."""
    backend = ScriptedBackend(asyncio.Event())
    backend.facts = ExecutionStats(execution_seconds=4.0, queue_seconds=1.0)
    async with running(models(gpu_second=0.5), backend) as here:
        response, work = here.client.start("POST", CHAT, _json({**ASK, "stream": is_stream}))
        await backend.called.wait()
        response.hung_up.set()
        await work

    assert (here.record.cost, here.record.execution_seconds, here.record.queue_seconds) == (2.0, 4.0, 1.0)


async def test_client_that_leaves_before_the_content() -> None:
    """A stream that has only begun."""
    upstream = ScriptedUpstream([ROLE, asyncio.Event()])
    backend = ScriptedBackend(upstream)
    async with running(models(prompt=1000.0), backend) as here:
        response, work = here.client.start("POST", CHAT, _json({**ASK, "stream": True}))
        await backend.called.wait()
        response.hung_up.set()
        await work

    assert here.record.cost == pytest.approx(PROMPT_COST, rel=0.1)


@pytest.mark.parametrize(
    ("error", "num_paid"),
    [(TargetRefusedError(500), 3), (TargetTimeoutError("silent"), 3), (TargetRefusedError(429), 1)],
)
async def test_attempts_that_were_repeated(error: RequestError, num_paid: int) -> None:
    """Each was sent, so each costs its prompt; where the target says that it did not begin, nothing."""
    answer = json_answer({"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 0}})
    async with running(models(prompt=1000.0), ScriptedBackend(error, error, answer)) as here:
        await here.client.post(CHAT, ASK)

    assert here.record.num_attempts == 3
    assert here.record.cost == pytest.approx(num_paid * PROMPT_COST, rel=0.1)
    assert here.record.num_prompt_tokens == 1000


async def test_request_that_failed() -> None:
    """All of its attempts count, and the budget sees them."""
    error = TargetRefusedError(500)
    async with running(models(prompt=1000.0), ScriptedBackend(error, error, error, error)) as here:
        secret = here.add_key(budget=3.5)
        first = await here.client.post(CHAT, ASK, authorization=f"Bearer {secret}")
        second = await here.client.post(CHAT, ASK, authorization=f"Bearer {secret}")

    assert (first.status, second.status) == (500, 429)
    assert here.records[0].cost == pytest.approx(4 * PROMPT_COST, rel=0.1)


async def test_shared_answers_are_paid_once() -> None:
    """Also when the requests that wait for one leave one by one before it comes."""
    shared = models(prompt=1000.0)
    shared["llama"]["coalesce"] = "team"
    backend = ScriptedBackend(asyncio.Event())
    async with running(shared, backend) as here:
        started = [here.client.start("POST", CHAT, _json(ASK)) for _ in range(3)]
        await backend.called.wait()
        for response, work in started:
            response.hung_up.set()
            await work

    assert sum(record.cost for record in here.records) == pytest.approx(PROMPT_COST, rel=0.1)


async def test_answers_are_not_paid_twice() -> None:
    """The call that gave the answer is paid by its usage alone."""
    async with running(models(prompt=1e6), ScriptedBackend(stream_answer("hi"))) as here:
        await here.client.post(CHAT, {**ASK, "stream": True})

    assert here.record.cost == 7.0


def _json(body: object) -> bytes:
    return json.dumps(body).encode()
