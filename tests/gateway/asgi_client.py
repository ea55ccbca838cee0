"""A client of an ASGI application, in the same event loop: sends what it likes, sees each message, may hang up."""

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message


class Response:
    """One response, as it comes."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.hung_up = asyncio.Event()
        self.stops_reading_at = b""
        self._news = asyncio.Condition()
        self._requests: list[Message] = []

    # For the application

    async def receive(self) -> Message:
        if self._requests:
            return self._requests.pop(0)
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.stops_reading_at and self.stops_reading_at in message.get("body", b""):
            await asyncio.Event().wait()
        async with self._news:
            self.messages.append(message)
            self._news.notify_all()

    # For the test

    async def until(self, part: bytes) -> None:
        """Wait for something in the body."""
        async with self._news:
            await self._news.wait_for(lambda: part in self.body)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def writes(self) -> list[bytes]:
        return [message["body"] for message in self.messages[1:] if message["body"]]

    @property
    def body(self) -> bytes:
        return b"".join(self.writes)

    def json(self) -> Any:
        return json.loads(self.body)


class AsgiClient:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def start(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[Response, "asyncio.Task[None]"]:
        """The response to come, and the application's work on it."""
        response = Response()
        response._requests.append({"type": "http.request", "body": body, "more_body": False})
        named = {"host": "localhost", "content-type": "application/json"} | headers
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items() if value],
        }
        return response, asyncio.create_task(_run(self._app, scope, response))

    async def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        response, work = self.start(method, path, body, **headers)
        await work
        return response

    async def post(self, path: str, body: object, **headers: str) -> Response:
        return await self.request("POST", path, json.dumps(body).encode(), **headers)

    async def get(self, path: str, **headers: str) -> Response:
        return await self.request("GET", path, b"", **headers)


async def _run(app: ASGIApp, scope: dict[str, Any], response: Response) -> None:
    await app(scope, response.receive, response.send)
