"""One connection of the worker's HTTP protocol, without a socket: bytes in, bytes out, and time that a test moves."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from handler.http.limits import LimitedProtocol


class Timer:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock:
    """What the protocol uses of an event loop: its tasks are real, its time is not."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[Timer] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        self._timers.append(timer := Timer(when, callback))
        return timer

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return self.call_at(self._now + delay, callback)

    def create_task(self, work: Coroutine[Any, Any, None], **_: object) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def advance(self, seconds: float) -> None:
        """Move the time, running what is due on the way."""
        end = self._now + seconds
        while due := [timer for timer in self._timers if timer.when <= end and not timer.is_cancelled]:
            timer = min(due, key=lambda timer: timer.when)
            self._timers.remove(timer)
            self._now = max(self._now, timer.when)
            timer.callback()
        self._now = end


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.has_eof = self.is_closed = False
        self.on_close: Callable[[None], object] = lambda _: None

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_eof = True

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.on_close, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Connection:
    """A client of an application that reads a request's body and then answers 200, or is held until `answer()`."""

    def __init__(self, *, held: bool = False, reads_body: bool = True) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []
        self.clock = Clock()
        self.transport = FakeTransport()
        self._reads_body = reads_body
        self._may_answer = asyncio.Event()
        if not held:
            self._may_answer.set()
        config = Config(cast(ASGIApp, self._app), interface="asgi3", lifespan="off", ws="none", log_config=None)
        loop = cast(asyncio.AbstractEventLoop, self.clock)
        self.protocol = LimitedProtocol(config, ServerState(), {}, loop)
        self.protocol.connection_made(self.transport)
        self.transport.on_close = self.protocol.connection_lost

    async def send(self, *parts: bytes) -> None:
        """Parts arrive one after the other; the application has its turn after each."""
        for part in parts:
            if not self.transport.is_closed:
                self.protocol.data_received(part)
            for _ in range(5):
                await asyncio.sleep(0)

    async def answer(self) -> None:
        self._may_answer.set()
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def statuses(self) -> list[int]:
        """Of all answers so far."""
        lines = self.transport.written.split(b"HTTP/1.1 ")[1:]
        return [int(line[:3]) for line in lines]

    @property
    def is_ended(self) -> bool:
        return self.transport.has_eof or self.transport.is_closed

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body, more = b"", self._reads_body
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        await self._may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
