"""An answer source whose every step is told by the test: when it answers, what it says, how it ends."""

import asyncio
from collections.abc import AsyncIterator

from local_gateway.config.settings import ModelSettings, OpenAITarget, Price
from local_gateway.edge.client_request import ClientRequest
from local_gateway.routing.answer_source import RoutedRequest
from local_gateway.routing.router import Route
from local_gateway.wire.answer import Answer, Origin
from local_gateway.wire.call_ledger import ExecutionStats
from tests.gateway.fake_targets import FakeClock, target_of

EVENTS = {"content-type": "text/event-stream", "x-request-id": "req-1"}
JSON = {"content-type": "application/json", "x-request-id": "req-1"}
STATS = ExecutionStats(execution_seconds=2.5)
PRICE = Price(prompt=1.0, completion=2.0)

SETTINGS = ModelSettings(targets=(OpenAITarget(type="openai"),))
END = None
Step = bytes | Exception | None


def routed_of(
    request: ClientRequest | None = None,
    settings: ModelSettings = SETTINGS,
    *,
    alias: str = "llama",
    targets: tuple[str, ...] = ("target-1",),
    who: str = "",
    no_store: bool = False,
) -> RoutedRequest:
    """A routed request; its targets are never asked."""
    route = Route(alias, "llama", settings, tuple(target_of(FakeClock(), name=name) for name in targets))
    return RoutedRequest(route, request or ClientRequest(path="/chat/completions"), who, no_store)


class ScriptedSource:
    """Counts what is done to it. `began` is set when it is called, `closed` when its answer was closed.

    One body at a time: the steps of a second answer follow those of the first.
    """

    def __init__(self, *steps: Step, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.num_calls = 0
        self.num_closed = 0
        self.num_asked_for_stats = 0
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

    async def answer(self, routed: RoutedRequest) -> Answer:
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
        return Answer(self._status, dict(self._headers), ScriptedBody(self), Origin("target-1", PRICE))

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

    async def next_piece(self) -> bytes:
        try:
            step = await self._steps.get()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if step is END:
            raise StopAsyncIteration
        if isinstance(step, Exception):
            raise step
        self.num_read += 1
        return step


class ScriptedBody:
    """The body of a source's answer: its steps, one by one."""

    def __init__(self, source: ScriptedSource) -> None:
        self._source = source
        self._is_over = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._is_over:
            raise StopAsyncIteration
        try:
            return await self._source.next_piece()
        except BaseException:
            self._is_over = True
            raise

    async def aclose(self) -> None:
        await asyncio.sleep(0)  # others get ahead of it
        self._source.num_closed += 1
        self._source.closed.set()

    async def execution_stats(self) -> ExecutionStats:
        assert self._source.closed.is_set(), "asked before it was over"
        self._source.num_asked_for_stats += 1
        return STATS


async def read_to_end(answer: Answer) -> bytes:
    """All of the body; then the answer is closed, whatever happened."""
    try:
        return b"".join([piece async for piece in answer.body])
    finally:
        await answer.aclose()
