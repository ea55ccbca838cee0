"""A client that costs next to nothing: the same request again and again over bare connections, and the times of it."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

PATIENCE = 120.0  # seconds until a load that hangs fails
LAST_CHUNK = b"0\r\n\r\n"

Json = dict[str, Any]


@dataclass(slots=True)
class Times:
    """Of one load. Seconds; for each answer one of each kind, in the order of their ends."""

    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # to the first event of a stream
    num_events: int = 0
    seconds: float = 0.0  # all of it

    def add(self, other: "Times") -> None:
        self.whole += other.whole
        self.first += other.first
        self.num_events += other.num_events
        self.seconds += other.seconds


def request_to(base_url: str, body: Json | None, path: str = "/v1/chat/completions") -> bytes:
    raw = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"host: {urlsplit(base_url).netloc}",
        "content-type: application/json",
        "authorization: Bearer none",
        "accept: */*",
        f"content-length: {len(raw)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + raw


class Caller(asyncio.Protocol):
    """One connection; sends its request until `num_requests` are answered. An answer that is no 200 ends it all."""

    def __init__(self, request: bytes, num_requests: int) -> None:
        self.times = Times()
        self.began = asyncio.get_running_loop().create_future()  # when the first answer's first event is here
        self.over = asyncio.get_running_loop().create_future()
        self._request = request
        self._num_left = num_requests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(error or ConnectionError("the connection was closed before the answer's end"))

    def send(self) -> None:
        self._head = b""
        self._is_chunked = self._has_begun = False
        self._num_bytes = -1  # of the body that are still to come, if its length is known
        self._tail = b""
        self._sent = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._num_bytes < 0 and not self._is_chunked:
            self._head += data
            head, border, data = self._head.partition(b"\r\n\r\n")
            if not border:
                return
            self._read_head(head.lower())
        if self._is_chunked:
            self._read_events(data)
        else:
            self._num_bytes -= len(data)
        if self._num_bytes == 0 or self._tail == LAST_CHUNK:
            self._finish()

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"http/1.1 200"):
            self._fail(head)
        elif (start := head.find(b"content-length:")) >= 0:
            self._num_bytes = int(head[start + 15 :].split(b"\r\n", 1)[0])
        else:
            self._is_chunked = True

    def _fail(self, head: bytes) -> None:
        if not self.over.done():
            self.over.set_exception(ConnectionError(head.split(b"\r\n", 1)[0].decode("latin-1")))
        self.transport.abort()

    def _read_events(self, data: bytes) -> None:
        num_events = data.count(b"data: {")
        self.times.num_events += num_events
        if num_events and not self._has_begun:
            self._has_begun = True
            self.times.first.append(time.perf_counter() - self._sent)
            if not self.began.done():
                self.began.set_result(None)
        self._tail = (self._tail + data)[-len(LAST_CHUNK) :]

    def _finish(self) -> None:
        self.times.whole.append(time.perf_counter() - self._sent)
        self._num_left -= 1
        if self._num_left > 0:
            self.send()
            return
        self.transport.close()
        if not self.over.done():
            self.over.set_result(None)


async def connect(url: str, request: bytes, num_requests: int = 1) -> Caller:
    """It sends nothing yet."""
    loop = asyncio.get_running_loop()
    _, caller = await loop.create_connection(lambda: Caller(request, num_requests), *address_of(url))
    return caller


async def load(url: str, body: Json, *, num_requests: int, num_callers: int) -> Times:
    """All requests, so many at once."""
    request = request_to(url, body)
    callers = [await connect(url, request, num_requests // num_callers) for _ in range(num_callers)]
    start = time.perf_counter()
    for caller in callers:
        caller.send()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(caller.over for caller in callers))
    times = Times()
    for caller in callers:
        times.add(caller.times)
    times.seconds = time.perf_counter() - start
    return times


async def get(url: str, path: str) -> Any:
    """The JSON body of an answer."""
    reader, writer = await asyncio.open_connection(*address_of(url))
    writer.write(request_to(url, None, path).replace(b"accept:", b"connection: close\r\naccept:"))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    body = await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
    return json.loads(body)


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80
