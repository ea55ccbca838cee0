"""Clients that are slow, many, or gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

import tests.gateway.wire_samples as wire
from tests.gateway.hostile_stage import MAX_REQUESTS, PATIENCE, Stage, stage
from tests.gateway.targets.on_socket import JSON, Reply, Step

pytestmark = pytest.mark.asyncio(loop_scope="module")

MB = 1_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("gateway")) as here:
        yield here


@pytest_asyncio.fixture(loop_scope="module")
async def here(module_stage: Stage) -> AsyncIterator[Stage]:
    """As new; and each story leaves a gateway behind that answers."""
    module_stage.reset()
    yield module_stage
    await module_stage.still_answers()


BLOCK = b"".join(10 * [wire.chunk({"content": 6000 * "x"})])  # 60 kB
FLOOD = [wire.chunk({"role": "assistant", "content": ""}), *(600 * [BLOCK]), wire.chunk({}, "stop"), wire.DONE]
MAX_GROWTH = {"model": 30 * MB, "shared": 64 * MB}  # the second keeps as much for one who reads slower than another


async def read_all(here: Stage, raw: bytes) -> int:
    """How many letters of text an answer has."""
    num_letters = 0
    async with here.connection() as (reader, writer), asyncio.timeout(PATIENCE):
        writer.write(raw)
        while piece := await reader.read(1_000_000):
            num_letters += piece.count(b"x")
    return num_letters


@pytest.mark.parametrize(("model", "num_calls"), [("model", 6), ("shared", 1)])
async def test_slow_readers(here: Stage, model: str, num_calls: int) -> None:
    """Who does not read makes the target wait, or is given up where others wait for the same answer."""
    held = asyncio.Event()
    here.target.script = lambda _: Reply(FLOOD, held=held)
    raw = here.chat(model=model, stream=True, temperature=0)
    async with AsyncExitStack() as stack:
        for _ in range(5):
            _, writer = await stack.enter_async_context(here.connection())
            writer.write(raw)
        reading = asyncio.create_task(read_all(here, raw))
        await here.in_flight(6)
        before = here.gateway.memory
        held.set()
        num_letters = await reading
        grown = here.gateway.memory - before
        num_over = sum(received.is_over for received in here.target.received)

    assert num_letters >= FLOOD.count(BLOCK) * BLOCK.count(b"x")
    assert grown < MAX_GROWTH[model]  # where the five could have 180
    assert (len(here.target.received), num_over) == (num_calls, 1)
    await here.target.until(lambda: not here.target.open)


async def test_many_at_once(here: Stage) -> None:
    """Those for whom there is no place are told to come again; the others are not disturbed."""
    held = asyncio.Event()
    here.target.script = lambda _: Reply([held, b"{}"], headers=JSON)
    calls = [asyncio.create_task(here.call(here.chat())) for _ in range(MAX_REQUESTS)]
    await here.target.until(lambda: len(here.target.received) == MAX_REQUESTS)
    refused = await here.call(here.chat())
    held.set()
    answers = await asyncio.gather(*calls)

    assert (refused.statuses, refused.code) == ([503], "overloaded")
    assert b"retry-after: 1" in refused.raw.lower()
    assert [answer.statuses for answer in answers] == MAX_REQUESTS * [[200]]


async def test_many_in_one_write(here: Stage) -> None:
    """They are answered one after the other."""
    one = here.chat()
    answer = await here.call(50 * one.replace(b"connection: close\r\n", b"") + one)

    assert answer.statuses == 51 * [200]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["model", "kept"])
async def test_client_that_leaves(here: Stage, model: str, stream: bool) -> None:
    """Before the first byte or after it, streaming or not: the target is told."""
    never = asyncio.Event()
    opened = wire.text_events("Par")[:2]
    cases: list[list[Step]] = [[never], [b"".join(opened), never]]
    for steps in cases:
        here.target.once.append(Reply(steps) if stream else Reply([never], headers=JSON))
        async with here.connection() as (reader, writer):
            writer.write(here.chat(model=model, temperature=0, stream=stream))
            await here.target.until(lambda: here.target.open)
            if stream and len(steps) > 1:
                await reader.readuntil(b"Par")
        await here.target.until(lambda: here.target.left)
        here.target.reset()
