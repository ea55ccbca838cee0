"""uvicorn's HTTP protocol with limits on everything a client may send unasked; uvicorn has none of its own.

One instance per connection, on the event loop's thread. Knows nothing of routes, keys and bodies' meaning.

    request line and headers   MAX_URL_BYTES, MAX_HEADERS, MAX_HEAD_BYTES, REQUEST_SECONDS
    body                       REQUEST_SECONDS, longer only for a client that keeps to MIN_BYTES_PER_SECOND
    trailers, chunk headers    MAX_HEAD_BYTES; trailers are dropped, never taken for headers
    answer                     WRITE_SECONDS for a client that does not read it

A limit that is passed is answered with an error as OpenAI writes it, and the connection is closed. Between two
requests uvicorn's own keep-alive timeout holds.
"""

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from handler.errors import InvalidRequestError, to_response

MAX_URL_BYTES = 8_192
MAX_HEADERS = 128
MAX_HEAD_BYTES = 65_536
REQUEST_SECONDS = 30.0  # from the first byte of a request, or from the connection, to the request's last byte
MIN_BYTES_PER_SECOND = 50_000  # of a body: each such portion extends REQUEST_SECONDS by a second
WRITE_SECONDS = 50.0  # until a client that reads nothing is disconnected
LINGER_SECONDS = 1.0  # for what a refused client still sends: closed at once, it would not see the answer

Refusal = tuple[HTTPStatus, str]


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    `_num_raw_bytes` counts what the parser has taken without delivering anything: reset by each complete head, piece
    of body, chunk and message, it bounds heads, trailers and chunk extensions alike, whole lines or one without end.
    """

    _num_raw_bytes = 0
    _num_body_bytes = 0  # of this request
    _num_headers = 0
    _is_in_body = False
    _refusal: Refusal | None = None  # noted by a callback of the parser, answered when the parser has returned
    _is_over = False  # refused, or answered before the body was whole: whatever still comes is discarded
    _began = 0.0  # the loop's time at which the request that is being received began
    _request_timer: asyncio.TimerHandle | None = None  # runs while a request is being received
    _write_timer: asyncio.TimerHandle | None = None  # runs while the client reads nothing

    # The transport's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._start_request_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._num_raw_bytes += len(data)
        if self._request_timer is None:
            self._start_request_timer()
        super().data_received(data)
        if self._refusal is None and self._num_raw_bytes > MAX_HEAD_BYTES:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's headers are too large."
        if self._refusal is not None and not self._is_over:
            self._refuse(*self._refusal)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        self._num_headers = self._num_body_bytes = 0
        self._is_in_body = False
        if self._refusal is None:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refusal = HTTPStatus.REQUEST_URI_TOO_LONG, f"The URL has more than {MAX_URL_BYTES} bytes."

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_body or self._refusal is not None:
            return  # a trailer
        self._num_headers += 1
        if self._num_headers > MAX_HEADERS:
            message = f"The request has more than {MAX_HEADERS} headers."
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._num_raw_bytes = 0
        self._is_in_body = True
        if self._refusal is None:
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._num_raw_bytes = 0

    def on_chunk_complete(self) -> None:
        self._num_raw_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._num_raw_bytes = 0
        self._num_body_bytes += len(body)
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_raw_bytes = 0
        self._is_in_body = False
        self._stop_request_timer()
        if self._refusal is None:
            super().on_message_complete()

    # uvicorn's

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_in_body and not self.pipeline:
            self._end()  # the rest of the body would be read for nothing

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    # Ours

    def _start_request_timer(self) -> None:
        self._began = self.loop.time()
        self._request_timer = self.loop.call_at(self._began + REQUEST_SECONDS, self._check_pace)

    @property
    def _is_answering(self) -> bool:
        """Whether an earlier request, whole by now, still waits for the end of its answer."""
        return bool(self.pipeline) or (
            self.cycle is not None and not self._is_in_body and not self.cycle.response_complete
        )

    def _check_pace(self) -> None:
        """Refuse a request that is not whole in its time; a connection without any is closed without a word."""
        if self._is_answering:
            self._start_request_timer()
            return
        due = self._began + REQUEST_SECONDS + self._num_body_bytes / MIN_BYTES_PER_SECOND
        if self.loop.time() < due:
            self._request_timer = self.loop.call_at(due, self._check_pace)
        elif self._num_raw_bytes or self._is_in_body:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request took too long to arrive.")
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer the request that is being received, unless bytes of an answer would get into another, and close."""
        if self._is_in_body:
            can_answer = not self.pipeline and not self.cycle.response_started
            self.cycle.disconnected = True  # the application waits for the body no longer
            self.cycle.message_event.set()
        else:
            can_answer = not self._is_answering
        if can_answer:
            body = json.dumps(to_response(InvalidRequestError(message)).body)
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write((head + body).encode("ascii"))
        self._end()

    def _end(self) -> None:
        """Say that nothing more is sent, discard what still comes, and close."""
        self._is_over = True
        self._stop_request_timer()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._request_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _stop_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _stop_timers(self) -> None:
        self._stop_request_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
