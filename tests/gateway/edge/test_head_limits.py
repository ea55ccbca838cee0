"""The head of a request, on a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from local_gateway.edge import head_limits
from local_gateway.edge.head_limits import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_URL_BYTES,
    BoundedHttpProtocol,
    bounded_protocol,
)
from local_gateway.edge.response import ResponseWriter
from local_gateway.errors import InvalidRequestError


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what it saw; at /early before the body, at /stream without a length."""
    if scope["path"] == "/early":
        await ResponseWriter(send, {}).json(401, {})
        return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/stream":
        response = ResponseWriter(send, {})
        await response.open_stream()
        await response.keep_alive()
        await response.error(InvalidRequestError("the end"))
        return
    names = [name.decode() for name, _ in scope["headers"]]
    await ResponseWriter(send, {}).json(200, {"path": scope["path"], "headers": names})


@asynccontextmanager
async def connection(**more: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        **{"app": app, "http": BoundedHttpProtocol, **more}, lifespan="off", ws="none", log_config=None
    )
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
    assert b'{"path": "/one"' in answer
    assert b'{"path": "/two"' in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: " + b"y" * 2 * MAX_HEAD_BYTES,
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES,
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " + b"y" * 2 * MAX_HEAD_BYTES,
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES,
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"y" * 2 * MAX_HEAD_BYTES,
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 2 * MAX_HEADERS + b"\r\n",
    ],
    ids=["one-header", "many-headers", "one-trailer", "many-trailers", "chunk-extension", "many-small-headers"],
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


@pytest.mark.parametrize("num_bytes", [MAX_URL_BYTES + 1, 2 * MAX_HEAD_BYTES])
async def test_long_addresses(num_bytes: int) -> None:
    """A whole one, or one without an end."""
    answer = await answer_to(b"GET /" + b"y" * num_bytes + b" HTTP/1.1\r\nhost: a\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 414 ")


CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n"


@pytest.mark.parametrize(
    "trailer", [b"authorization: Bearer KEY", b"x-api-key: KEY", b"content-type: text/plain", b"origin: http://a"]
)
async def test_trailers_are_no_headers(trailer: bytes) -> None:
    """In one write with the head or later: the application never sees them."""
    for parts in (
        [CHUNKED + b"\r\n0\r\n" + trailer + b"\r\n\r\n"],
        [CHUNKED + b"\r\n1\r\nx\r\n", b"0\r\n" + trailer + b"\r\n\r\n"],
    ):
        async with connection() as (reader, writer):
            for part in parts:
                writer.write(part)
                await writer.drain()
            writer.write_eof()
            answer = await reader.readuntil(b"}")

        assert answer.endswith(b'"headers": ["host", "transfer-encoding"]}')


async def test_small_chunks() -> None:
    """The framing of a body may be larger than the body, as long as the body goes on."""
    chunks = b"1\r\nx\r\n" * MAX_HEAD_BYTES
    answer = await answer_to(CHUNKED + b"connection: close\r\n\r\n" + chunks + b"0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "rest",
    [
        b"content-length: 100\r\n\r\nx",
        b"transfer-encoding: chunked\r\n\r\n1\r\nx",
        b"transfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n",
    ],
    ids=["body", "chunk", "trailers"],
)
async def test_answered_before_the_body(rest: bytes) -> None:
    """What is still to come is not waited for: the connection is closed."""
    answer = await answer_to(b"POST /early HTTP/1.1\r\nhost: a\r\n" + rest)

    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_old_clients_get_no_chunks() -> None:
    """HTTP/1.0 ends a stream by closing."""
    answer = await answer_to(b"GET /stream HTTP/1.0\r\nhost: a\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")

    assert b"transfer-encoding" not in head
    assert body.startswith(b": keep-alive\n\ndata: {")
    assert body.endswith(b"data: [DONE]\n\n")


async def test_too_many_connections() -> None:
    """One that is idle makes room; where none is, a new one is told that there is none."""
    async with connection(http=bounded_protocol(1)) as (first, writer):
        address = writer.get_extra_info("peername")
        second, other = await asyncio.open_connection(*address)
        other.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n")
        assert await first.read() == b""

        third, last = await asyncio.open_connection(*address)
        assert (await third.read()).startswith(b"HTTP/1.1 503 ")
        other.write(b"12345")
        assert (await second.readline()).startswith(b"HTTP/1.1 200 ")
        for each in (other, last):
            each.close()


async def test_client_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection ends, though nothing else happens on it."""
    monkeypatch.setattr(head_limits, "STALL_SECONDS", 0.05)
    done = asyncio.Event()

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
        done.set()

    async with connection(app=large) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # as a client that does not read
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.wait_for(done.wait(), 10)
