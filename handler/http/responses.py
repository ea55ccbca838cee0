"""What is sent for an error and for an answer of the API, whole or streamed."""

import contextlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from handler.api import routes
from handler.api.common import Answer
from handler.api.stream import EventStream
from handler.http.disconnect import unless_disconnected

RETRY_AFTER = "5"  # seconds; what a 503 asks of the client
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # proxies must not collect events
}


class ApiResponse(Response):
    """An answer that is still to be made: `call` is awaited while the client is watched.

    A client that hangs up, or a server that ends the request, cancels the call or the stream, whichever runs.
    """

    def __init__(self, call: Callable[[], Awaitable[Answer | EventStream]], route: str = "") -> None:
        super().__init__()
        self._call = call
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientDisconnect):  # no answer can be delivered; the call is cancelled by now
            await unless_disconnected(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._call()
        except Exception as error:
            await error_response(error, self._route)(scope, receive, send)
            return
        if isinstance(answer, EventStream):
            await _send_events(answer, send)
        else:
            await JSONResponse(answer)(scope, receive, send)


async def _send_events(stream: EventStream, send: Send) -> None:
    """Each write is whole events, as soon as they are there."""
    headers = [(name.encode(), value.encode()) for name, value in STREAM_HEADERS.items()]
    try:
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
        async for events in stream:
            await send({"type": "http.response.body", "body": events.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        stream.cancel()


def error_response(error: Exception, route: str = "") -> Response:
    """An error in the form of the route: OpenAI's, or Anthropic's for its own."""
    status, body = routes.error_response(error, route)
    headers = {"retry-after": RETRY_AFTER} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(body, status, headers)
