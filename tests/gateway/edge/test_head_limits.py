"""The head of a request, on a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from local_gateway.edge import head_limits
from local_gateway.edge.head_limits import MAX_HEAD_BYTES, BoundedHttpProtocol
from local_gateway.edge.response import Reply


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await Reply(send, {}).json(200, {"path": scope["path"]})


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=BoundedHttpProtocol, lifespan="off", ws="none", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve([listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


async def answer_to(request: bytes) -> bytes:
    """All that comes until the gateway has no more to say."""
    async with connection() as (reader, writer):
        writer.write(request)
        return await reader.read()


async def test_two_requests() -> None:
    """One connection, a large body between two heads."""
    body = b"x" * (2 * MAX_HEAD_BYTES)
    first = b"POST /one HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    answer = await answer_to(first + b"GET /two HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")

    assert answer.count(b"HTTP/1.1 200") == 2
    assert b'{"path": "/one"}' in answer
    assert answer.endswith(b'{"path": "/two"}')


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: " + b"y" * 2 * MAX_HEAD_BYTES,
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES,
        b"GET /" + b"y" * 2 * MAX_HEAD_BYTES,
    ],
    ids=["one-header", "many-headers", "address"],
)
async def test_large_heads(request_: bytes) -> None:
    """A head without an end is refused when it is too large, in JSON."""
    answer = await answer_to(request_)

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"type": "invalid_request_error"' in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"GET / HTTP/1.1\r\nhost: a\r\nbad header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\nb\r\n\r\n",
    ],
    ids=["no-http", "two-lengths", "two-content-lengths", "bad-name", "line-feed"],
)
async def test_bad_heads(request_: bytes) -> None:
    """What can be read in two ways is not read at all, and the answer is JSON."""
    answer = await answer_to(request_)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'{"error": {' in answer


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost"])
async def test_slow_heads(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which no request comes is closed."""
    monkeypatch.setattr(head_limits, "HEAD_SECONDS", 0.01)

    assert await answer_to(sent) == b""
