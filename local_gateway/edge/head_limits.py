"""uvicorn's HTTP protocol with limits on all that a connection may send unasked, or leave unread.

uvicorn bounds neither the head of a request nor its trailers, and waits for slow clients without end.
"""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from local_gateway.errors import InvalidRequestError, UnavailableError

MAX_HEAD_BYTES = 65_536  # of a head, and of the framing and trailers between two pieces of a body
MAX_URL_BYTES = 16_384
MAX_HEADERS = 200
SLICE_BYTES = 16_384  # parsed at once, so that a limit is noticed before much more than it is held
HEAD_SECONDS = 30.0  # from the first byte of a head, or the opening of the connection, to the head's end
STALL_SECONDS = 60.0  # for which a client may read nothing of what is written to it
LINGER_SECONDS = 1.0  # for what a refused client still sends: closed at once, it would not see the answer

Protocol = Callable[..., "BoundedHttpProtocol"]


def bounded_protocol(max_connections: int) -> Protocol:
    """The protocol for uvicorn's `http`. `max_connections` at once, of all clients together."""
    return partial(BoundedHttpProtocol, max_connections=max_connections)


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection, in the event loop's thread. Knows HTTP's framing; nothing of paths, keys and bodies.

    Between two requests uvicorn's own keep-alive timeout holds. The time for a body is the application's to limit,
    which reads it.
    """

    def __init__(self, *args: Any, max_connections: int = 0, **kwargs: Any) -> None:
        """`max_connections`: 0 is no limit."""
        super().__init__(*args, **kwargs)
        self._max_connections = max_connections
        self._is_in_head = True  # or between two requests
        self._is_refused = False
        self._num_unread_bytes = 0  # since the last byte of a body, or since the head began
        self._num_url_bytes = 0
        self._has_body_progress = False  # in the slice that is being parsed
        self._head_timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Nothing of a request has come since the last response."""
        return self._is_in_head and not self._num_unread_bytes and (self.cycle is None or self.cycle.response_complete)

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if self._max_connections and len(self.connections) > self._max_connections and not self._make_room():
            error = UnavailableError("The gateway has as many connections as it can hold.", code="overloaded")
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, error.body)
            return
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._close_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _make_room(self) -> bool:
        """Close a connection that waits for its next request. False if none does."""
        idle = (each for each in self.connections if isinstance(each, BoundedHttpProtocol) and each is not self)
        found = next((each for each in idle if each.is_idle), None)
        if found is not None:
            found._close()
        return found is not None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # Bytes

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), SLICE_BYTES):
            if self._is_refused or self.transport.is_closing():
                return
            self._parse(data[start : start + SLICE_BYTES])

    def _parse(self, piece: bytes) -> None:
        if self._is_in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close)
        self._has_body_progress = False
        self._num_unread_bytes += len(piece)
        super().data_received(piece)
        if self._has_body_progress:
            self._num_unread_bytes = 0
        if self._num_unread_bytes > MAX_HEAD_BYTES and not self._is_refused:
            self._refuse_request(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers of the request are too large."
            )
        elif self._num_url_bytes > MAX_URL_BYTES and not self._is_refused:
            self._refuse_request(HTTPStatus.REQUEST_URI_TOO_LONG, "The address of the request is too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._num_url_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._num_url_bytes += len(url)
        if self._num_url_bytes <= MAX_URL_BYTES:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers are dropped: what checks or strips headers before us has not seen them."""
        if self._is_in_head and len(self.headers) <= MAX_HEADERS:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._has_body_progress = True
        self._stop_head_timer()
        if self._num_url_bytes > MAX_URL_BYTES:
            self._refuse_request(HTTPStatus.REQUEST_URI_TOO_LONG, "The address of the request is too long.")
        elif len(self.headers) > MAX_HEADERS:
            self._refuse_request(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request has too many headers.")
        if self._is_refused:
            return
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0":
            self.cycle.__class__ = UnframedCycle  # uvicorn makes its cycles itself

    def on_body(self, body: bytes) -> None:
        self._has_body_progress = True
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_head = True
        self._has_body_progress = True
        if not self._is_refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """What was answered before its body was whole is not read on."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
        elif not self._is_in_head and not self.pipeline:
            self._is_refused = True
            self._close_soon()

    def _unsupported_upgrade_warning(self) -> None:
        """The request is answered as what it is without the upgrade."""

    # Ends

    def send_400_response(self, msg: str) -> None:
        self._refuse_request(HTTPStatus.BAD_REQUEST, msg)

    def _refuse_request(self, status: HTTPStatus, message: str) -> None:
        self._refuse(status, InvalidRequestError(message).body)

    def _refuse(self, status: HTTPStatus, body: object) -> None:
        """In OpenAI's words too: clients show nothing else. In the middle of a response there is no place for them."""
        raw = json.dumps(body)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(raw)}\r\nconnection: close\r\n\r\n"
        )
        self._is_refused = True
        is_answering = bool(self.pipeline)
        if self.cycle is not None and not self.cycle.response_complete:
            is_answering = is_answering or self.cycle.response_started
            self.cycle.disconnected = True  # the application writes nothing more
            self.cycle.message_event.set()
        if not is_answering:
            self.transport.write((head + raw).encode("ascii"))
        self._close_soon()

    def _close_soon(self) -> None:
        self._stop_head_timer()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._close_timer = self.loop.call_later(LINGER_SECONDS, self._close)

    def _close(self) -> None:
        """What is written still leaves, but not without end."""
        self.transport.close()
        self._close_timer = self.loop.call_later(STALL_SECONDS, self._abort)

    def _abort(self) -> None:
        self.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class UnframedCycle(RequestResponseCycle):
    """A response to HTTP/1.0, which knows no chunks: without a length its end is that of the connection."""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", [])}
            if b"content-length" not in names:
                self.chunked_encoding = False
        elif self.response_started and self.chunked_encoding is False and not self.response_complete:
            self.expected_content_length = max(self.expected_content_length, len(message.get("body", b"")))
        await super().send(message)
