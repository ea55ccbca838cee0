"""An HTTP server whose every byte a test writes, and which sees when a client hangs up."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from local_gateway.backends.http import HttpClient
from local_gateway.config.settings import TimeoutSettings

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

    async def hung_up(self) -> None:
        """Returns when the client has closed the connection."""
        async with asyncio.timeout(TIMEOUT):
            while await self.reader.read(1000):
                pass

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass(slots=True)
class FakeTarget:
    """Calls its script for every request. After it the connection stays open, unless the script closed it."""

    script: Script
    exchanges: list[Exchange] = field(default_factory=list)
    num_connections: int = 0
    url: str = ""
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
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


def always(answer: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.send(answer)

    return script


@asynccontextmanager
async def target_and_client(script: Script, **timeouts: float) -> AsyncIterator[tuple[FakeTarget, HttpClient]]:
    http = HttpClient(TimeoutSettings(**timeouts))
    async with FakeTarget(script) as target, asyncio.timeout(TIMEOUT):
        try:
            yield target, http
        finally:
            await http.aclose()
