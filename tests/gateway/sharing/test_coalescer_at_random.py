"""Requests that share a call come, read, leave and fail in any order; what has to hold then always holds."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from local_gateway.errors import AnswerBrokenError, RequestError, TargetTimeoutError
from local_gateway.routing.answer_source import RoutedRequest
from local_gateway.sharing.coalescer import Coalescer
from local_gateway.wire.answer import Answer, Origin
from local_gateway.wire.call_ledger import ExecutionStats
from tests.gateway.targets.never_asked import routed_of
from tests.seeds import seeds

PIECES = [b"%02d" % number for number in range(20)]
WHOLE = b"".join(PIECES)
NUM_CLIENTS = 8
TYPES = ("text/event-stream", "application/json")
ROUTED = routed_of()


async def pause(rng: random.Random) -> None:
    """Let others go first, some times."""
    for _ in range(rng.randrange(4)):
        await asyncio.sleep(0)


@dataclass
class Call:
    """One call to a target, with what it does at random; the body of its answer."""

    rng: random.Random
    num_open: int = 0
    num_closed: int = 0
    num_asked_for_stats: int = 0
    position: int = 0

    async def answer(self) -> Answer:
        await pause(self.rng)
        if self.rng.random() < 0.1:
            raise TargetTimeoutError("slow")
        self.num_open += 1
        return Answer(200, {"content-type": self.rng.choice(TYPES)}, self, Origin("target"))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await pause(self.rng)
        if self.position == len(PIECES):
            raise StopAsyncIteration
        if self.rng.random() < 0.005:
            raise AnswerBrokenError("gone")
        self.position += 1
        return PIECES[self.position - 1]

    async def aclose(self) -> None:
        await pause(self.rng)
        self.num_closed += 1

    async def execution_stats(self) -> ExecutionStats:
        assert self.num_closed == 1
        self.num_asked_for_stats += 1
        return ExecutionStats(1.0)


@dataclass
class Source:
    """Where every call comes from."""

    rng: random.Random
    calls: list[Call]

    async def answer(self, routed: RoutedRequest) -> Answer:
        self.calls.append(Call(self.rng))
        number = len(self.calls) - 1
        answer = await self.calls[-1].answer()
        answer.headers["call"] = str(number)
        return answer


@dataclass
class Client:
    """One request; what it has read, and how it ended."""

    rng: random.Random
    source: Source
    read: bytes = b""
    end: str = "left"
    answer: Answer | None = None

    async def run(self, coalescer: Coalescer) -> None:
        await pause(self.rng)
        try:
            self.answer = await coalescer.answer("key", ROUTED, self.source)
            await self._read(self.answer)
        except RequestError:
            self.end = "failed"
        finally:
            if self.answer is not None:
                await self.answer.aclose()
                await self.answer.execution_stats()

    def is_of(self, number: int) -> bool:
        return self.answer is not None and self.answer.headers["call"] == str(number)

    async def _read(self, answer: Answer) -> None:
        async for piece in answer.body:
            self.read += piece
            if self.rng.random() < 0.02:
                return
            await pause(self.rng)
        self.end = "read all"


@pytest.mark.parametrize("seed", seeds())
async def test_any_order(seed: int) -> None:
    """No client waits for ever or gets what is not the answer; each call is closed once, and is never free for all."""
    rng = random.Random(seed)
    coalescer = Coalescer(max_lag_bytes=rng.choice((6, 20, 1000)))
    source = Source(rng, [])
    clients = [Client(rng, source) for _ in range(NUM_CLIENTS)]
    tasks = [asyncio.create_task(client.run(coalescer)) for client in clients]
    for task in rng.sample(tasks, rng.randrange(NUM_CLIENTS)):
        for _ in range(rng.randrange(20)):
            await pause(rng)
        task.cancel()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks, return_exceptions=True)

    for client in clients:
        assert WHOLE.startswith(client.read)
        assert client.end != "read all" or client.read == WHOLE
    for number, call in enumerate(source.calls):
        assert call.num_closed == call.num_open
        assert call.num_asked_for_stats <= 1
        together = [(client, client.answer) for client in clients if client.is_of(number) and client.answer]
        billed = [client for client, answer in together if answer.origin.sharing == "miss"]
        if any(client.end == "read all" for client, _ in together):
            assert any(client.read == WHOLE for client in billed)
        elif together:
            assert billed
    assert len(coalescer) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
