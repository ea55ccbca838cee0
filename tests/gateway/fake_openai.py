"""A target that speaks OpenAI's API: what it sends is scripted byte for byte, and it remembers what came.

python tests/gateway/fake_openai.py     a process of its own, with the usual answers, on a free port that it prints
"""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web

from tests.gateway.wire_samples import (
    EMBEDDING,
    OPENAI_RESPONSES,
    Json,
    answer_of,
    completion,
    events_of,
    models_of,
    text_events,
)

T = TypeVar("T")
Step = bytes | asyncio.Event  # sent in one write, or waited for

PATIENCE = 30.0  # seconds until a test that waits for something fails
MAX_BODY_BYTES = 100_000_000
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Reply:
    """Status and headers, then each step by itself. If it `drops`, the connection breaks off instead of ending."""

    steps: Sequence[Step] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: EVENTS)
    held: asyncio.Event | None = None  # waited for before the status
    drops: bool = False
    pace: float = 0.0  # seconds between two steps, so that they are not read as one

    @classmethod
    def json(cls, body: Json, status: int = 200, **headers: str) -> "Reply":
        """Underscores in the names of headers become hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls([json.dumps(body).encode()], status, {**JSON, **named})

    @classmethod
    def error(cls, status: int, message: str, code: str | None = None, **headers: str) -> "Reply":
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return cls.json({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, **headers)


@dataclass(slots=True, eq=False)
class Received:
    """A request, as it arrived."""

    method: str
    path: str  # with query
    headers: Mapping[str, str]
    body: bytes
    is_over: bool = False  # answered to its end
    was_left: bool = False  # the client hung up before that

    @property
    def json(self) -> Json:
        body: Json = json.loads(self.body)
        return body


Script = Callable[[Received], Reply]


def usual(request: Received) -> Reply:
    """What OpenAI would say, in few words."""
    route = request.path.partition("?")[0].rstrip("/")
    if request.method == "GET" and route == "/v1/models":
        return Reply.json(models_of("model", "other"))
    kind = route.removeprefix("/v1/")
    body = request.json if request.method == "POST" and request.body[:1] == b"{" else {}
    if kind == "embeddings":
        return Reply.json(EMBEDDING)
    if kind == "responses":
        return Reply([OPENAI_RESPONSES]) if body.get("stream") else Reply.json({"object": "response", "output": []})
    if kind not in ("chat/completions", "completions"):
        return Reply.error(404, f"Invalid URL ({request.method} {route})", "unknown_url")
    if not body.get("stream"):
        return Reply.json(answer_of(kind, "Paris."))
    options = body.get("stream_options")
    wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    events = text_events("Par", "is.", usage=wants_usage) if kind == "chat/completions" else completion("Par", "is.")
    return Reply(events_of(events))


class FakeOpenAI:
    """An asynchronous context: inside it listens at `url`. Replies in `once` are given first, then what `script` says.

    `until` waits for whatever happens to it: a request, its end, a client that leaves.
    """

    def __init__(self, script: Script = usual, *, port: int = 0) -> None:
        self.script = script
        self.once: deque[Reply] = deque()
        self.received: list[Received] = []
        self._port = port
        self._bell = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def left(self) -> list[Received]:
        """What clients did not wait for."""
        return [request for request in self.received if request.was_left]

    @property
    def open(self) -> list[Received]:
        return [request for request in self.received if not request.is_over and not request.was_left]

    def reset(self) -> None:
        """As at the beginning; what is running goes on."""
        self.script = usual
        self.once.clear()
        self.received.clear()

    async def until(self, condition: Callable[[], T]) -> T:
        """Its first true value."""
        async with asyncio.timeout(PATIENCE):
            while not (value := condition()):
                await self._bell.wait()
            return value

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        received = Received(request.method, request.path_qs, request.headers, await request.read())
        self.received.append(received)
        self._ring()
        try:
            return await self._send(request, self.once.popleft() if self.once else self.script(received))
        except (asyncio.CancelledError, ConnectionError):
            received.was_left = True
            raise
        finally:
            received.is_over = not received.was_left
            self._ring()

    async def _send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        if reply.held is not None:
            await reply.held.wait()
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        await response.prepare(request)
        for step in reply.steps:
            await (step.wait() if isinstance(step, asyncio.Event) else response.write(step))
            await asyncio.sleep(reply.pace)
        if reply.drops and request.transport is not None:
            request.transport.abort()
        return response

    def _ring(self) -> None:
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()


async def main() -> None:
    async with FakeOpenAI() as fake:
        sys.stdout.write(f"{fake.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
