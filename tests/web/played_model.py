"""A target that plays a model: what a person asks says how it answers, so that a test can stop the time anywhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from local_gateway.backends.base import Call, Health
from local_gateway.wire.call_ledger import ExecutionStats

EVENTS = {"content-type": "text/event-stream"}


class PlayedUpstream:
    """One answer. `is_closed` says whether the gateway let go of it, `is_read` whether it came to its end before."""

    def __init__(self, parts: list[dict[str, Any] | asyncio.Event], usage: dict[str, Any], pace: float) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = EVENTS
        self.is_closed = asyncio.Event()
        self.is_read = False
        self._parts = parts
        self._usage = usage
        self._pace = pace

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, asyncio.Event):
                await part.wait()
            else:
                yield _event({"choices": [{"index": 0, "delta": part, "finish_reason": None}]})
                await asyncio.sleep(self._pace)
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield _event({"choices": [], "usage": self._usage})
        yield b"data: [DONE]\n\n"
        self.is_read = True

    async def aclose(self) -> None:
        self.is_closed.set()

    async def execution_stats(self) -> ExecutionStats:
        return ExecutionStats()


class PlayedModel:
    """Answers with `text`. Asked to "hold" it stops in the middle until `go_on`, to "start" before the first word.

    `pace` is seconds between two words.
    """

    def __init__(self, text: str, health: Health, *, reasoning: str = "", pace: float = 0.0) -> None:
        self.text = text
        self.health_now = health
        self.go_on = asyncio.Event()
        self.upstreams: list[PlayedUpstream] = []
        self.num_abandoned = 0
        self._reasoning = reasoning
        self._pace = pace

    async def open(self, call: Call) -> PlayedUpstream:
        call.tally.started()
        asked = str(json.loads(call.body)["messages"][-1]["content"])
        if "start" in asked:
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.num_abandoned += 1
                raise
        words = [{"content": word} for word in _words(self.text)]
        parts: list[dict[str, Any] | asyncio.Event] = [{"reasoning_content": word} for word in _words(self._reasoning)]
        parts += words
        if "hold" in asked:
            parts.insert(max(1, len(parts) // 2), self.go_on)
        if "tool" in asked:
            function = {"name": "weather", "arguments": '{"city": "Paris"}'}
            parts.append({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]})
        usage = {"prompt_tokens": 24, "completion_tokens": len(parts), "total_tokens": 24 + len(parts)}
        self.upstreams.append(PlayedUpstream(parts, usage, self._pace))
        return self.upstreams[-1]

    async def health(self) -> Health:
        return self.health_now

    async def aclose(self) -> None:
        pass


def _words(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")] if text else []


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"id": "chatcmpl-1", "object": "chat.completion.chunk", **body}).encode() + b"\n\n"
