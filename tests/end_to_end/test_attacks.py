"""A real socket under what strangers send: nothing grows, and the next client is served."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from handler.http.edge import HttpEdge
from handler.http.serve import make_server
from handler.settings import Settings
from tests.fake_worker import FakeWorker, fake_worker

TOTAL = 20_000_000  # bytes that an attacker sends
MAX_GROWTH = 8_000_000  # bytes of resident memory, of which most are the interpreter's own
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
ATTACKS: dict[str, tuple[bytes, bytes]] = {
    "headers": (b"GET /ping HTTP/1.1\r\n", b"x-aaaaaa: b\r\n" * 1000),
    "one header": (b"GET /ping HTTP/1.1\r\nx: ", b"a" * 13_000),
    "URL": (b"GET /", b"a" * 13_000),
    "trailers": (POST + b"0\r\n", b"x-aaaaaa: b\r\n" * 1000),
    "one trailer": (POST + b"0\r\nx: ", b"a" * 13_000),
}


@asynccontextmanager
async def served(worker: FakeWorker) -> AsyncIterator[int]:
    """The port of a worker on loopback."""
    settings = Settings()
    edge = HttpEdge(settings)
    edge.worker = worker.worker
    server = make_server(edge, settings)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def flood(port: int, head: bytes, piece: bytes) -> bytes:
    """The answer to a head that is followed by pieces without end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head)
        for _ in range(TOTAL // len(piece)):
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass  # refused by then
    try:
        return await reader.read(12)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(("head", "piece"), ATTACKS.values(), ids=ATTACKS)
async def test_bytes_without_end(head: bytes, piece: bytes) -> None:
    """They are refused, and memory stays as it was."""
    with fake_worker() as worker:
        async with served(worker) as port:
            await flood(port, b"GET /ping HTTP/1.1\r\n", b"\r\n")  # all that is imported and allocated once
            before = resident()
            answer = await flood(port, head, piece)
            assert resident() - before < MAX_GROWTH
            assert answer in (b"HTTP/1.1 431", b"HTTP/1.1 414", b"")
            assert await worker.still_answers()
