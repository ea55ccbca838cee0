"""HTTP/1.1 over one kept connection, with little work for each piece of a body.

The standard library alone, so that it runs wherever Python does, and so that the machine's cores stay with the server.
Knows nothing of what the bodies mean.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

CRLF = b"\r\n"
TO_THE_CLOSE = -1  # a body without a length that ends with its connection
MESSAGE_BYTES = 2000  # of a refusal's body that are kept

TakePiece = Callable[[bytes, float], None]  # a piece of a body, and when it came (time.perf_counter)


class Response:
    """One response, read from bytes as they come. Pure: no socket, no clock. Raises ValueError for what is not HTTP."""

    def __init__(self) -> None:
        self.status = 0  # until the head is whole
        self.is_over = False
        self.keeps_open = True  # the connection may serve another request
        self._rest = b""  # of a head or of a chunk's size, until it is whole
        self._is_chunked = self._is_trailing = False
        self._num_left = 0  # bytes of the body, or of the current chunk with its line end

    def feed(self, data: bytes) -> bytes:
        """The part of the body that this piece of the response brings."""
        if not self.status:
            head, border, data = (self._rest + data).partition(CRLF + CRLF)
            if not border:
                self._rest = head
                return b""
            self._rest = b""
            self._read_head(head.lower())
        return self._read_chunks(data) if self._is_chunked else self._read_plain(data)

    def close(self) -> None:
        """The connection has ended. Raises ConnectionError if the response has not."""
        if not self.status or self._num_left != TO_THE_CLOSE:
            raise ConnectionError("the connection was closed before the response's end")
        self.is_over = True

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"http/1."):
            raise ValueError(f"no HTTP/1.1 response: {head[:80]!r}")
        fields = dict(line.split(b":", 1) for line in head.split(CRLF)[1:])
        self.status = int(head.partition(b" ")[2][:3])
        self._is_chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
        self._num_left = 0 if self._is_chunked else int(fields.get(b"content-length", TO_THE_CLOSE))
        self.keeps_open = b"close" not in fields.get(b"connection", b"") and self._num_left != TO_THE_CLOSE

    def _read_plain(self, data: bytes) -> bytes:
        if self._num_left != TO_THE_CLOSE:
            self._num_left -= len(data)
            self.is_over = self._num_left <= 0
        return data

    def _read_chunks(self, data: bytes) -> bytes:
        data, self._rest = self._rest + data, b""
        pieces, place = [], 0
        while place < len(data) and not self.is_over:
            if self._num_left:  # the last two bytes of it are the line end
                part = data[place : place + self._num_left]
                pieces.append(part[: max(0, self._num_left - len(CRLF))])
                self._num_left -= len(part)
                place += len(part)
                continue
            end = data.find(CRLF, place)
            if end < 0:
                self._rest = data[place:]
                break
            line, place = data[place:end], end + len(CRLF)
            if self._is_trailing:
                self.is_over = not line
            elif size := int(line.partition(b";")[0], 16):
                self._num_left = size + len(CRLF)
            else:
                self._is_trailing = True
        return b"".join(pieces)


class Connection(asyncio.Protocol):
    """One connection to a server, for one request at a time; used by one task. It connects when it is needed, and anew
    when the server has closed it between two requests."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._over: asyncio.Future[None] | None = None
        self._take: TakePiece | None = None
        self._message = b""
        self._may_retry = False

    async def connect(self) -> None:
        """Raises OSError."""
        is_encrypted = self._url.scheme == "https"
        port = self._url.port or (443 if is_encrypted else 80)
        context = ssl.create_default_context() if is_encrypted else None
        await asyncio.get_running_loop().create_connection(lambda: self, self._url.hostname or "", port, ssl=context)

    async def exchange(self, request: bytes, take: TakePiece) -> None:
        """Send a request and give its answer's body away as it comes, until it has ended.

        Raises OSError, and ValueError for an answer that is no 200 or not HTTP.
        """
        self._may_retry = self._transport is not None and not self._transport.is_closing()
        try:
            await self._exchange(request, take)
        except ConnectionError:  # a kept connection may have been closed while the request was on its way
            if not self._may_retry or self._response is None or self._response.status:
                raise
            await self._exchange(request, take)

    async def _exchange(self, request: bytes, take: TakePiece) -> None:
        if self._transport is None or self._transport.is_closing():
            await self.connect()
        self._response, self._take, self._message = Response(), take, b""
        self._over = asyncio.get_running_loop().create_future()
        cast(asyncio.Transport, self._transport).write(request)
        await self._over
        if not self._response.keeps_open:
            self.close()
        if self._response.status != 200:
            raise ValueError(f"status {self._response.status}: {self._message.decode(errors='replace')}")

    def close(self) -> None:
        """Also in the midst of an exchange, which then raises ConnectionError."""
        self._may_retry = False
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        response, over = self._response, self._over
        if response is None or over is None or over.done():
            return  # bytes that nothing asked for
        try:
            body = response.feed(data)
            if response.status == 200 and self._take is not None:
                self._take(body, now)
            else:
                self._message = (self._message + body)[:MESSAGE_BYTES]
        except ValueError as error:
            over.set_exception(error)
            return
        if response.is_over:
            over.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._response is None or self._over is None or self._over.done():
            return
        try:
            self._response.close()
            self._over.set_result(None)
        except ConnectionError as ended:
            self._over.set_exception(error or ended)


def request(url: str, path: str, body: bytes | None, key: str = "") -> bytes:
    """The bytes of a request: a GET where there is no body. `path` comes after the path that the address may have."""
    address = urlsplit(url)
    lines = [
        f"{'GET' if body is None else 'POST'} {address.path.rstrip('/')}{path} HTTP/1.1",
        f"Host: {address.netloc}",
        "Accept: */*",
        *([f"Authorization: Bearer {key}"] if key else []),
        *(["Content-Type: application/json", f"Content-Length: {len(body)}"] if body is not None else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


async def get(url: str, path: str, key: str = "") -> bytes:
    """A whole body. Raises OSError, and ValueError for what is no 200."""
    pieces: list[bytes] = []

    def take(piece: bytes, now: float) -> None:
        pieces.append(piece)

    connection = Connection(url)
    try:
        await connection.exchange(request(url, path, None, key), take)
    finally:
        connection.close()
    return b"".join(pieces)
