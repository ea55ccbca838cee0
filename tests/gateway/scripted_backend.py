"""A target that does what a test says, and remembers what was asked of it and what was closed."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from local_gateway.backends.base import Call, Health
from local_gateway.config.settings import OpenAITarget
from local_gateway.config.settings import Target as TargetSettings
from local_gateway.errors import RequestError
from local_gateway.routing.target import Target
from local_gateway.wire.call_ledger import ExecutionStats

EVENTS = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


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


class Time:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_target(
    backend: ScriptedBackend, name: str = "one", settings: TargetSettings | None = None, clock: Time | None = None
) -> Target:
    return Target(name, settings or OpenAITarget(type="openai", name=name), backend, clock or Time())
