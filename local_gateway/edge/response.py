"""An answer → the client: the ASGI messages of one response, each block of events in one write."""

import asyncio
import json
import time
from collections.abc import Mapping

from starlette.types import Send

from local_gateway.accounts.usage import UsageMeter
from local_gateway.edge.request import ClientLeftError
from local_gateway.errors import to_response
from local_gateway.wire.answer import Answer
from local_gateway.wire.sse import EVENT_STREAM, KEEP_ALIVE, encode_error

STREAM_HEADERS = {
    "content-type": f"{EVENT_STREAM}; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # proxies like nginx would hold events back
}
LAST = b"[DONE]"
LAST_BYTES = 32  # of a block, in which it stands
STALL_SECONDS = 300.0  # for which a client may read nothing


class Reply:
    """One response. What was sent cannot be taken back: `is_open` says whether the status is out.

    `headers` are in every response, whatever it is.
    """

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self._send = send
        self.headers = headers
        self.status = 0
        self.is_open = False
        self._is_stream = False
        self.is_complete = False  # the client has been sent all of it
        self.first_sent_at: float | None = None  # content, by the monotonic clock

    async def open_stream(self) -> None:
        """Promise a stream although no target has answered yet."""
        await self._start_stream(200, {})

    async def keep_alive(self) -> None:
        await self._write(KEEP_ALIVE)

    async def answer(self, answer: Answer, meter: UsageMeter) -> None:
        """Send an answer to its end. Raises TargetError where it breaks off."""
        if answer.is_events:
            await self._stream(answer, meter)
        else:
            await self._body(answer, meter)

    async def error(self, error: BaseException) -> None:
        """An error with its status; in a stream that is open, one event and the end of the stream.

        What is open and no stream is broken off: the server closes the connection of an unfinished response.
        """
        status, body, headers = to_response(error)
        if not self.is_open:
            await self.json(status, body, headers)
        elif self._is_stream:
            await self._write(encode_error(body), more=False)
        self.status = status

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
                await self._write(shown)
        await self._write(b"", more=False)

    async def _body(self, answer: Answer, meter: UsageMeter) -> None:
        """JSON has come whole, and its length is told. Anything else goes on as it comes."""
        first = await anext(answer.body, b"")
        self.first_sent_at = time.monotonic()
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        if is_json:
            meter.read_body(first)
        if self.is_open:  # a stream was promised
            await self._write(_as_event(first), more=False)
            return
        await self._start(answer.status, answer.headers, len(first) if is_json else None)
        await self._write(first, more=not is_json)
        if not is_json:
            async for part in answer.body:
                await self._write(part)
            await self._write(b"", more=False)

    async def _start_stream(self, status: int, headers: Mapping[str, str]) -> None:
        self._is_stream = True
        await self._start(status, {**headers, **STREAM_HEADERS})

    async def _start(self, status: int, headers: Mapping[str, str], length: int | None = None) -> None:
        named = {**headers, **self.headers} | ({} if length is None else {"content-length": str(length)})
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        self.status = status
        self.is_open = True

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        """Waits while the client reads slowly, so that the target does too. Raises ClientLeftError if it does not."""
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise ClientLeftError from None


def _as_event(body: bytes) -> bytes:
    """A JSON answer in a stream that was opened too early: its target does not stream."""
    return b"data: " + b" ".join(body.splitlines()) + b"\n\ndata: [DONE]\n\n"
