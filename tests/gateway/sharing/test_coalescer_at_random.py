"""Requests that share a call come, read, leave and fail in any order; what has to hold then always holds."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from local_gateway.errors import AnswerBrokenError, RequestError, TargetTimeoutError
from local_gateway.sharing.coalescer import Coalescer
from local_gateway.wire.answer import Answer, ExecutionStats, Origin

PIECES = [b"%02d" % number for number in range(20)]
WHOLE = b"".join(PIECES)
NUM_CALLERS = 8


async def pause(rng: random.Random) -> None:
    """Let others go first, some times."""
    for _ in range(rng.randrange(4)):
        await asyncio.sleep(0)


@dataclass
class Call:
    """One call to a target, with what it does at random."""

    rng: random.Random
    num_open: int = 0
    num_closed: int = 0
    num_settled: int = 0

    async def make(self) -> Answer:
        await pause(self.rng)
        if self.rng.random() < 0.1:
            raise TargetTimeoutError("slow")
        self.num_open += 1
        return Answer(200, {}, self._body(), Origin("target", settle=self._settle), self._aclose)

    async def _body(self) -> AsyncIterator[bytes]:
        for piece in PIECES:
            await pause(self.rng)
            if self.rng.random() < 0.005:
                raise AnswerBrokenError("gone")
            yield piece

    async def _aclose(self) -> None:
        await pause(self.rng)
        self.num_closed += 1

    async def _settle(self) -> ExecutionStats:
        assert self.num_closed == 1
        self.num_settled += 1
        return ExecutionStats(1.0)


@dataclass
class Caller:
    """One request; what it has read, and how it ended."""

    rng: random.Random
    calls: list[Call]
    read: bytes = b""
    end: str = "left"
    answer: Answer | None = None

    async def run(self, coalescer: Coalescer) -> None:
        await pause(self.rng)
        try:
            self.answer = await coalescer.join("key", self._make)
            await self._read(self.answer)
        except RequestError:
            self.end = "failed"
        finally:
            if self.answer is not None:
                await self.answer.aclose()
                await self.answer.origin.settle()

    def is_of(self, number: int) -> bool:
        return self.answer is not None and self.answer.headers["call"] == str(number)

    async def _make(self) -> Answer:
        self.calls.append(Call(self.rng))
        answer = await self.calls[-1].make()
        answer.headers["call"] = str(len(self.calls) - 1)
        return answer

    async def _read(self, answer: Answer) -> None:
        async for piece in answer.body:
            self.read += piece
            if self.rng.random() < 0.02:
                return
            await pause(self.rng)
        self.end = "read all"


@pytest.mark.parametrize("seed", range(300))
async def test_any_order(seed: int) -> None:
    """Nobody waits for ever or gets what is not the answer; each call is closed once, and has at most one payer."""
    rng = random.Random(seed)
    coalescer = Coalescer(max_replay_bytes=rng.choice((6, 20, 1000)), max_lag_bytes=rng.choice((10, 1000)))
    calls: list[Call] = []
    callers = [Caller(rng, calls) for _ in range(NUM_CALLERS)]
    tasks = [asyncio.create_task(caller.run(coalescer)) for caller in callers]
    for task in rng.sample(tasks, rng.randrange(NUM_CALLERS)):
        for _ in range(rng.randrange(20)):
            await pause(rng)
        task.cancel()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks, return_exceptions=True)

    for caller in callers:
        assert WHOLE.startswith(caller.read)
        assert caller.end != "read all" or caller.read == WHOLE
    for number, call in enumerate(calls):
        assert call.num_closed == call.num_open
        assert call.num_settled <= 1
        together = [(caller, caller.answer) for caller in callers if caller.is_of(number) and caller.answer]
        payers = [caller for caller, answer in together if answer.origin.sharing == "miss"]
        assert len(payers) <= 1
        if any(caller.end == "read all" for caller, _ in together):
            assert payers[0].read == WHOLE
    assert len(coalescer) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
