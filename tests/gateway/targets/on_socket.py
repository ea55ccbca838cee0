"""Targets on a socket. `RawTarget`: a test writes every byte. `FakeOpenAI`: it speaks OpenAI's API, by a script.

python -m tests.gateway.targets.on_socket     the latter in a process of its own, on a free port that it prints
"""

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from multidict import CIMultiDict

from local_gateway.backends.http import HttpClient
from local_gateway.config.settings import TimeoutSettings
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
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
TIMEOUT = 20.0  # seconds until a test that hangs fails; nothing waits so long otherwise


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and what is done about it."""

    method: str
    path: str  # with its query
    headers: dict[str, str]  # lower-case names
    body: bytes
    num_connection: int  # counted from 1
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hung_up(self, seconds: float | None = TIMEOUT) -> None:
        """Returns when the client has closed the connection. Raises TimeoutError if it does not in so many seconds."""
        async with asyncio.timeout(seconds):
            while await self.reader.read(1000):
                pass

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


RawScript = Callable[[Exchange], Awaitable[None]]


@dataclass(slots=True)
class RawTarget:
    """Calls its script for every request. After it the connection stays open, unless the script closed it."""

    script: RawScript
    port: int = 0  # 0: any free one
    exchanges: list[Exchange] = field(default_factory=list)
    num_connections: int = 0
    url: str = ""
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.num_connections += 1
        number = self.num_connections
        try:
            while exchange := await _read(reader, writer, number):
                self.exchanges.append(exchange)
                await self.script(exchange)
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> Exchange | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")[:-2]
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = first.split(" ")
    return Exchange(method, path, headers, body, number, reader, writer)


def reply(status: int, body: object = b"", **headers: str) -> bytes:
    """A whole answer. What is not bytes is sent as JSON; in header names _ stands for -."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    if not isinstance(body, bytes):
        headers = {"content_type": "application/json"} | headers
    return head(status, content_length=str(len(content)), **headers) + content


def head(status: int, **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return f"HTTP/1.1 {status} Whatever\r\n{''.join(lines)}\r\n".encode()


def chunk(data: bytes) -> bytes:
    """Of a body with transfer-encoding chunked; b"" ends it."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def always(answer: bytes) -> RawScript:
    async def script(exchange: Exchange) -> None:
        await exchange.send(answer)

    return script


@asynccontextmanager
async def target_and_client(script: RawScript, **timeouts: float) -> AsyncIterator[tuple[RawTarget, HttpClient]]:
    http = HttpClient(TimeoutSettings(**timeouts))
    async with RawTarget(script) as target, asyncio.timeout(TIMEOUT):
        try:
            yield target, http
        finally:
            await http.aclose()


# OpenAI's API


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
        self._server = RawTarget(self._answer, port)
        self._bell = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}/v1"

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
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.__aexit__()

    async def _answer(self, exchange: Exchange) -> None:
        received = Received(exchange.method, exchange.path, CIMultiDict(exchange.headers), exchange.body)
        self.received.append(received)
        self._ring()
        reply = self.once.popleft() if self.once else self.script(received)
        sending = asyncio.create_task(_send(exchange, reply))
        leaving = asyncio.create_task(exchange.hung_up(None))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            received.was_left = not sending.done() or isinstance(sending.exception(), ConnectionError)
            if received.was_left:
                raise ConnectionError
            sending.result()
        except (asyncio.CancelledError, ConnectionError):
            received.was_left = True
            raise
        finally:
            received.is_over = not received.was_left
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            self._ring()

    def _ring(self) -> None:
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()


async def _send(exchange: Exchange, reply: Reply) -> None:
    if reply.held is not None:
        await reply.held.wait()
    lines = [f"{name}: {value}\r\n" for name, value in reply.headers.items()]
    await exchange.send(
        f"HTTP/1.1 {reply.status} Status\r\n{''.join(lines)}Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    for step in reply.steps:
        await (step.wait() if isinstance(step, asyncio.Event) else exchange.send(chunk(step) if step else b""))
        await asyncio.sleep(reply.pace)
    if reply.drops:
        exchange.abort()
    else:
        await exchange.send(chunk(b""))


async def main() -> None:
    async with FakeOpenAI() as fake:
        sys.stdout.write(f"{fake.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
