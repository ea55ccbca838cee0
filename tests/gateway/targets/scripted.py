"""Targets that do what a test says, and remember what was asked of them and what was closed.

`ScriptedBackend` stands in a target's place, `ScriptedSource` in that of the whole dispatcher.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from local_gateway.backends.base import Call, Health
from local_gateway.config.settings import OpenAITarget, Price
from local_gateway.config.settings import Target as TargetSettings
from local_gateway.errors import RequestError
from local_gateway.routing.answer_source import RoutedRequest
from local_gateway.routing.target import Target
from local_gateway.wire.answer import Answer, Origin
from local_gateway.wire.call_ledger import ExecutionStats
from tests.gateway.targets.never_asked import FakeClock

EVENTS = {"content-type": "text/event-stream", "x-request-id": "req-1"}
JSON = {"content-type": "application/json", "x-request-id": "req-1"}
STATS = ExecutionStats(execution_seconds=2.5)
PRICE = Price(prompt=1.0, completion=2.0)
END = None
Step = bytes | Exception | None  # of a source: the next piece, how it breaks off, its end


@dataclass
class ScriptedUpstream:
    """Pieces are sent as they are; an Event among them is waited for; an error is raised."""

    pieces: Iterable[bytes | asyncio.Event | RequestError]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: EVENTS)
    facts: ExecutionStats = field(default_factory=ExecutionStats)
    is_closed: bool = False
    is_read: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif isinstance(piece, RequestError):
                raise piece
            else:
                yield piece
        self.is_read = True

    async def aclose(self) -> None:
        self.is_closed = True

    async def execution_stats(self) -> ExecutionStats:
        return self.facts


class ScriptedBackend:
    """`script`: what each call gets in turn; an error is raised, an Event is waited for before the next one."""

    def __init__(self, *script: ScriptedUpstream | RequestError | asyncio.Event) -> None:
        self._script = list(script)
        self.calls: list[Call] = []
        self.called = asyncio.Event()
        self.num_cancelled = 0
        self.facts = ExecutionStats()
        self.health_now = Health(True, "well", num_ready_workers=1)
        self.is_closed = False

    async def open(self, call: Call) -> ScriptedUpstream:
        self.calls.append(call)
        self.called.set()
        call.tally.started(self)
        try:
            while isinstance(step := self._script.pop(0), asyncio.Event):
                await step.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if isinstance(step, RequestError):
            raise step
        return step

    async def execution_stats(self) -> ExecutionStats:
        """Of calls without an answer."""
        return self.facts

    async def health(self) -> Health:
        return self.health_now

    async def aclose(self) -> None:
        self.is_closed = True

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(call.body) for call in self.calls]


def json_answer(body: object, status: int = 200, **headers: str) -> ScriptedUpstream:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ScriptedUpstream([json.dumps(body).encode()], status, JSON | named)


def chunk(text: str) -> bytes:
    """An event of a chat stream."""
    return _event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


ROLE = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}\n\n'
FINISH = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}\n\n'
DONE = b"data: [DONE]\n\n"


def _event(body: object) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def stream_answer(*texts: str, usage: bool = True) -> ScriptedUpstream:
    """A whole chat stream, an event a piece."""
    return ScriptedUpstream([ROLE, *map(chunk, texts), FINISH, *([USAGE] if usage else []), DONE])


def make_target(
    backend: ScriptedBackend, name: str = "one", settings: TargetSettings | None = None, clock: FakeClock | None = None
) -> Target:
    return Target(name, settings or OpenAITarget(type="openai", name=name), backend, clock or FakeClock())


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
