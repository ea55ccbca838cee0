"""A target that costs next to nothing: fixed answers over a bare protocol, in a process of its own.

    python benchmarks/mock_target.py     prints its address

The body says what is wanted: `"stream": true` for events, `"events": N` of them at once, `"holds": true` to stay open
after the first. GET /left tells when clients have left such streams, in seconds of the system's monotonic clock.
"""

import asyncio
import json
import sys
import time
from functools import cache
from typing import Any, cast

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n"
NUM_TEXT = 20  # characters of an event's text
EVENTS_PER_TURN = 64  # written before others get a turn


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    """As OpenAI sends it: about 240 bytes."""
    data = {
        "id": "chatcmpl-BenchmarkBenchmarkBench",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "mock",
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


FIRST = chunk(event({"role": "assistant", "content": ""})) + chunk(event({"content": "The"}))
NEXT = chunk(event({"content": "x" * NUM_TEXT}))
LAST = chunk(event({}, "stop")) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
STREAM = HEAD % b"text/event-stream; charset=utf-8" + b"transfer-encoding: chunked\r\n\r\n"


def whole(body: Any) -> bytes:
    raw = json.dumps(body).encode()
    return HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(raw) + raw


ANSWER = whole(
    {
        "id": "chatcmpl-BenchmarkBenchmarkBench",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "mock",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Paris is the capital of France. " * 8, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 14, "completion_tokens": 60, "total_tokens": 74},
    }
)
MODELS = whole({"object": "list", "data": [{"id": "mock", "object": "model", "created": 1, "owned_by": "mock"}]})


class Target(asyncio.Protocol):
    """One connection. Requests come one after the other."""

    left: list[float] = []  # noqa: RUF012  # of all connections: when each held stream was left

    def __init__(self) -> None:
        self._buffer = b""
        self._holds = False
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._holds:
            self.left.append(time.monotonic())
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, border, body = self._buffer.partition(b"\r\n\r\n")
        if border and len(body) >= length_of(head):
            self._buffer = b""
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /left "):
            self._transport.write(whole(self.left))
        elif head.startswith(b"GET "):
            self._transport.write(MODELS)
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._stream(json.loads(body))
        else:
            self._transport.write(ANSWER)

    def _stream(self, body: dict[str, Any]) -> None:
        self._holds = bool(body.get("holds"))
        num_events = int(body.get("events", 1))
        if self._holds:
            self._transport.write(STREAM + FIRST)
        elif num_events <= 1:
            self._transport.write(STREAM + FIRST + LAST)
        else:
            self._task = asyncio.create_task(self._burst(num_events))

    async def _burst(self, num_events: int) -> None:
        """One write for each event, as fast as they are taken."""
        self._transport.write(STREAM + FIRST)
        for number in range(num_events - 1):
            self._transport.write(NEXT)
            if number % EVENTS_PER_TURN == 0:
                await asyncio.sleep(0)
                await self._may_write.wait()
        self._transport.write(LAST)


@cache
def length_of(head: bytes) -> int:
    """Of the body. The heads are few, and all alike."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Target, "127.0.0.1", 0, backlog=2048)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
