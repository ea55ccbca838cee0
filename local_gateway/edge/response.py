"""An answer → the client: the ASGI messages of one response, each block of events in one write."""

import asyncio
import json
import math
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType

from starlette.types import Send

from local_gateway.accounts.usage import UsageMeter
from local_gateway.config.redactor import Redactor
from local_gateway.edge.request import ClientLeftError
from local_gateway.errors import AnswerBrokenError, TargetError, to_response
from local_gateway.wire.answer import Answer
from local_gateway.wire.sse import EVENT_STREAM, KEEP_ALIVE, encode_error

STREAM_HEADERS = {
    "content-type": f"{EVENT_STREAM}; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # proxies like nginx would hold events back
}
LAST = b"[DONE]"
LAST_BYTES = 32  # of a block, in which it stands
STALL_SECONDS = 60.0  # for which a client may read nothing
MAX_VALUE_BYTES = 8192  # of a header
NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
BAD_GATEWAY = 502


class ResponseWriter:
    """One response. What was sent cannot be taken back: `is_open` says whether the status is out.

    Lives in the request's task. `headers` are in every response, whatever it is. Nothing leaves unchecked: a head is
    one that HTTP can carry, and no secret of the configuration is in it or in what follows.
    """

    def __init__(self, send: Send, headers: dict[str, str], redactor: Redactor | None = None) -> None:
        self._send = send
        self._redactor = redactor or Redactor()
        self.headers = headers
        self.status = 0
        self.is_open = False
        self._is_stream = False
        self._is_between_events = True
        self._is_writing = False
        self._is_over = False
        self._last_begun = 0.0  # of the writes, by the monotonic clock
        self.is_complete = False  # the client has been sent all of it
        self.first_sent_at: float | None = None  # content, by the monotonic clock

    async def open_stream(self) -> None:
        """Promise a stream although no target has answered yet."""
        await self._start_stream(200, {})

    async def keep_alive(self) -> None:
        """A comment, unless something else is being written."""
        if not self._is_writing and self._is_between_events:
            await self._write(KEEP_ALIVE)

    async def answer(self, answer: Answer, meter: UsageMeter, *, keep_alive: float = 0.0) -> None:
        """Send an answer to its end, with a comment after each `keep_alive` seconds in which a stream is silent.

        Raises TargetError where it breaks off or cannot be passed on.
        """
        if not 200 <= answer.status <= 599:
            raise AnswerBrokenError(f"The target answered with status {answer.status}, which HTTP does not have.")
        if answer.is_events:
            async with StreamWatch(self, keep_alive):
                await self._stream(answer, meter)
        else:
            await self._body(answer, meter)

    async def error(self, error: BaseException) -> None:
        """An error with its status; in a stream that is open, one event and the end of the stream.

        What is open and no stream is broken off: the server closes the connection of an unfinished response.
        """
        status, body, headers = to_response(error)
        status = status if 400 <= status <= 599 else BAD_GATEWAY
        if not self.is_open:
            raw = self._without_secrets(json.dumps(body), error).encode()
            await self._start(status, {"content-type": "application/json", **headers}, len(raw))
            await self._write(raw, more=False)
        elif self._is_stream and not self._is_over:
            start = b"" if self._is_between_events else b"\n\n"
            event = self._without_secrets(encode_error(body).decode(), error).encode()
            await self._write(b"" if self.is_complete else start + event, more=False)
        self.status = status

    def _without_secrets(self, text: str, error: BaseException) -> str:
        """A target's own words may hold a part of a key of ours; the gateway's say what a key looks like."""
        return (
            self._redactor(text) if isinstance(error, TargetError) else self._redactor.hide_in(text.encode()).decode()
        )

    async def json(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        raw = json.dumps(body).encode()
        await self._start(status, {"content-type": "application/json", **(headers or {})}, len(raw))
        await self._write(raw, more=False)

    async def _stream(self, answer: Answer, meter: UsageMeter) -> None:
        if not self.is_open:
            await self._start_stream(answer.status, answer.headers)
        async for block in answer.body:
            self.first_sent_at = self.first_sent_at or time.monotonic()
            self.is_complete = block[-LAST_BYTES:].rstrip().endswith(LAST)  # many clients hang up when they see it
            if shown := meter.watch(block):
                self._is_between_events = shown.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
                await self._write_watched(self._redactor.hide_in(shown))
        await self._write_watched(b"", more=False)

    async def _body(self, answer: Answer, meter: UsageMeter) -> None:
        """JSON has come whole, and its length is told. Anything else goes on as it comes."""
        first = await anext(answer.body, b"")
        self.first_sent_at = time.monotonic()
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        if is_json:
            meter.read_body(first)
            first = self._redactor.hide_in(first)
        if self.is_open:  # a stream was promised
            await self._write(_as_event(first), more=False)
            return
        await self._start(answer.status, answer.headers, len(first) if is_json else None)
        if is_json:
            await self._write(first, more=False)
            return
        held = await self._write_but_beginnings(first)
        async for part in answer.body:
            held = await self._write_but_beginnings(held + part)
        await self._write(held, more=False)

    async def _write_but_beginnings(self, data: bytes) -> bytes:
        """Write what cannot be the beginning of a secret; returns the rest."""
        data = self._redactor.hide_in(data)
        end = len(data) - self._redactor.num_held(data)
        if end:
            await self._write(data[:end])
        return data[end:]

    async def _start_stream(self, status: int, headers: Mapping[str, str]) -> None:
        self._is_stream = True
        await self._start(status, {**headers, **STREAM_HEADERS})

    async def _start(self, status: int, headers: Mapping[str, str], length: int | None = None) -> None:
        named = {**headers, **self.headers} | ({} if length is None else {"content-length": str(length)})
        await self._send({"type": "http.response.start", "status": status, "headers": self._sendable_head(named)})
        self.status = status
        self.is_open = True

    def _sendable_head(self, named: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        """Most heads are in order as a whole, which one look at all of their values tells."""
        values = "".join(named.values()).encode("utf-8", "surrogateescape")
        is_fit = len(values) <= MAX_VALUE_BYTES and CONTROLS.search(values) is None
        if is_fit and values.isascii() and self._redactor.hide_in(values) == values:
            pairs = [(_sendable_name(name), value.strip().encode("ascii")) for name, value in named.items()]
            return [pair for pair in pairs if pair[0]]
        return [pair for name, value in named.items() if (pair := self._sendable(name, value))]

    def _sendable(self, name: str, value: str) -> tuple[bytes, bytes] | None:
        """A header as the bytes that came, and None if HTTP cannot carry it. Never raises."""
        raw_name = _sendable_name(name)
        raw_value = self._redactor.hide_in(value.encode("utf-8", "surrogateescape"))
        is_fit = len(raw_value) <= MAX_VALUE_BYTES and CONTROLS.search(raw_value) is None
        return (raw_name, raw_value.strip()) if raw_name and is_fit else None

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        """Waits while the client reads slowly, so that the target does too. Raises ClientLeftError if it does not."""
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self._write_watched(data, more=more)
        except TimeoutError:
            raise ClientLeftError from None

    async def _write_watched(self, data: bytes, *, more: bool = True) -> None:
        """The same where a StreamWatch has the time: a timeout for each event would cost more than the event."""
        self._is_writing = True
        self._is_over = not more
        self._last_begun = time.monotonic()
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
        finally:
            self._is_writing = False

    @property
    def silent_seconds(self) -> float:
        """Since the last write began; 0 while one goes on."""
        return 0.0 if self._is_writing else time.monotonic() - self._last_begun

    @property
    def stalled_seconds(self) -> float:
        """For which the client has not read what is being written; 0 while nothing is."""
        return time.monotonic() - self._last_begun if self._is_writing else 0.0


class StreamWatch:
    """A context around the events of a stream: a comment whenever it was silent for `period` seconds (0: never).

    Raises ClientLeftError, wherever the stream is, when the client has read nothing for STALL_SECONDS. A timer and
    no task: most streams are neither silent nor stalled, and should not pay for it.
    """

    def __init__(self, response: ResponseWriter, period: float) -> None:
        self._response = response
        self._period = period or math.inf
        self._has_stalled = False
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._wait(min(self._period, STALL_SECONDS))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        task = self._task
        del self._task  # or the task and its frame would hold each other
        if self._has_stalled and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientLeftError from None

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._check)

    def _check(self) -> None:
        stalled, silent = self._response.stalled_seconds, self._response.silent_seconds
        if stalled >= STALL_SECONDS:
            self._has_stalled = True
            self._task.cancel()
            return
        if silent >= self._period:
            self._writing = asyncio.create_task(self._response.keep_alive())
            silent = 0.0
        self._wait(max(0.001, min(self._period - silent, STALL_SECONDS - stalled)))


@lru_cache(maxsize=256)  # most responses have the same
def _sendable_name(name: str) -> bytes:
    """Empty if HTTP cannot carry it."""
    raw = name.lower().encode("utf-8", "surrogateescape")
    return raw if NAME.fullmatch(raw) else b""


def _as_event(body: bytes) -> bytes:
    """A JSON answer in a stream that was opened too early: its target does not stream."""
    return b"data: " + b" ".join(body.splitlines()) + b"\n\ndata: [DONE]\n\n"
