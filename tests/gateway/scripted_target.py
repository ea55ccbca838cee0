"""A target whose every step is told by the test: when it answers, what it says, how it ends."""

import asyncio
from collections.abc import AsyncIterator

from local_gateway.config.settings import Price
from local_gateway.wire.answer import Answer, ExecutionStats, Origin

EVENTS = {"content-type": "text/event-stream", "x-request-id": "req-1"}
JSON = {"content-type": "application/json", "x-request-id": "req-1"}
FACTS = ExecutionStats(execution_seconds=2.5)
PRICE = Price(prompt=1.0, completion=2.0)

END = None
Step = bytes | Exception | None


class ScriptedTarget:
    """Counts what is done to it. `began` is set when it is called, `closed` when it was let go of."""

    def __init__(self, *steps: Step, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.num_calls = 0
        self.num_closed = 0
        self.num_settled = 0
        self.num_read = 0
        self.began = asyncio.Event()
        self.closed = asyncio.Event()
        self.was_cancelled = False
        self._headers = headers or EVENTS
        self._status = status
        self._may_answer = asyncio.Event()
        self._steps: asyncio.Queue[Step] = asyncio.Queue()
        self._refusal: Exception | None = None
        if steps:
            self.answers(*steps)

    async def make(self) -> Answer:
        """What a dispatcher does."""
        self.num_calls += 1
        self.began.set()
        try:
            await self._may_answer.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self._refusal is not None:
            raise self._refusal
        origin = Origin("target-1", PRICE, settle=self._settle)
        return Answer(self._status, dict(self._headers), self._body(), origin, self._aclose)

    def answers(self, *steps: Step) -> None:
        """It has status and headers, and then these pieces."""
        self.says(*steps)
        self._may_answer.set()

    def says(self, *steps: Step) -> None:
        """Further pieces; an exception breaks the body off, END ends it."""
        for step in steps:
            self._steps.put_nowait(step)

    def refuses(self, error: Exception) -> None:
        self._refusal = error
        self._may_answer.set()

    async def _body(self) -> AsyncIterator[bytes]:
        try:
            while (step := await self._steps.get()) is not END:
                if isinstance(step, Exception):
                    raise step
                self.num_read += 1
                yield step
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise

    async def _aclose(self) -> None:
        await asyncio.sleep(0)  # others get ahead of it
        self.num_closed += 1
        self.closed.set()

    async def _settle(self) -> ExecutionStats:
        assert self.closed.is_set(), "asked before it was over"
        self.num_settled += 1
        return FACTS


async def read_to_end(answer: Answer) -> bytes:
    """All of the body; then the answer is closed, whatever happened."""
    try:
        return b"".join([piece async for piece in answer.body])
    finally:
        await answer.aclose()
