"""The HTTP edge: the same API as jobs get, for load-balancing endpoints, pods and laptops.

    /ping      204 while the model loads, 200 when it answers, 503 when it cannot any more; RunPod asks it
    /health    the same as JSON, with what the engine holds
    /metrics   its counters and the times of its steps, for Prometheus
    /v1/...    the API; behind a bearer key if one is set

A client that hangs up frees its slot, streaming or not.
"""

import asyncio
import hmac
import json
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from handler import metrics
from handler.api.common import Answer
from handler.api.routes import Method
from handler.api.stream import EventStream
from handler.errors import (
    AuthenticationError,
    InvalidRequestError,
    MethodNotAllowedError,
    PayloadTooLargeError,
    UnavailableError,
    to_response,
)
from handler.settings import Settings
from handler.worker import Worker

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
T = TypeVar("T")

RETRY_AFTER = "5"  # seconds; what a 503 asks of the client
MAX_DRAINED_BYTES = 64_000_000  # read of a body that is too large, so that its sender comes to read our answer
STREAM_HEADERS = {
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # proxies must not collect events
}


class HttpEdge:
    """The application. `worker` is None until the model is loaded."""

    def __init__(self, settings: Settings) -> None:
        self.worker: Worker | None = None
        self._api_key = settings.api_key.get_secret_value().encode()
        self._max_body_bytes = settings.max_body_bytes
        self.app = Starlette(
            routes=[
                Route("/ping", self.ping),
                Route("/health", self.health),
                Route("/metrics", self.metrics),
                Route("/{route:path}", self.call, methods=METHODS),
            ]
        )

    async def ping(self, _request: Request) -> Response:
        if self.worker is None:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        return Response(status_code=HTTPStatus.OK if self.worker.engine.is_healthy else HTTPStatus.SERVICE_UNAVAILABLE)

    async def health(self, _request: Request) -> Response:
        if self.worker is None:
            return JSONResponse({"status": "loading"}, HTTPStatus.SERVICE_UNAVAILABLE)
        engine = self.worker.engine
        if not engine.is_healthy:
            return JSONResponse({"status": "unhealthy"}, HTTPStatus.SERVICE_UNAVAILABLE)
        limits = {"max_num_seqs": engine.limits.max_num_seqs, "num_cells": engine.runner.num_cells}
        return JSONResponse({"status": "ok", **limits, **engine.stats._asdict()})

    async def metrics(self, _request: Request) -> Response:
        if self.worker is None:
            return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        return Response(metrics.render(self.worker.engine), media_type=metrics.CONTENT_TYPE)

    async def call(self, request: Request) -> Response:
        try:
            self._authenticate(request)
            method = _method(request)
            body = await self._read_json(request) if method == "POST" else None
            api = self._require_worker().api
            work = _bound_to_task(api.call(request.path_params["route"], body, method))
            answer = await _unless_disconnected(request.receive, work)
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it
        except Exception as error:
            return _error_response(error)
        return EventStreamResponse(answer) if isinstance(answer, EventStream) else JSONResponse(answer)

    def _authenticate(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = key.strip().encode("latin-1") if scheme.lower() == "bearer" else b""  # the bytes that were sent
        if self._api_key and not hmac.compare_digest(given, self._api_key):
            raise AuthenticationError("The API key is missing or wrong: send 'Authorization: Bearer KEY'.")

    def _require_worker(self) -> Worker:
        if self.worker is None:
            raise UnavailableError("The model is still loading.", code="loading")
        return self.worker

    async def _read_json(self, request: Request) -> object:
        body = bytearray()
        num_bytes = 0
        async for part in request.stream():
            num_bytes += len(part)
            if num_bytes <= self._max_body_bytes:
                body += part
            elif num_bytes > MAX_DRAINED_BYTES:
                break
        if num_bytes > self._max_body_bytes:
            raise PayloadTooLargeError(f"The request body is larger than {self._max_body_bytes} bytes.")
        try:
            return json.loads(bytes(body), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"The request body is not valid JSON: {error}.") from error


class EventStreamResponse(Response):
    """Sends events as they come, and stops the generation when the client hangs up."""

    media_type = "text/event-stream"

    def __init__(self, stream: EventStream) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(self._cancel_when_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for events in self._stream:
                await send({"type": "http.response.body", "body": events.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            watch.cancel()

    async def _cancel_when_disconnected(self, receive: Receive) -> None:
        await _disconnect(receive)
        self._stream.cancel()


def _bound_to_task(call: Coroutine[Any, Any, Answer | EventStream]) -> Coroutine[Any, Any, Answer | EventStream]:
    """The call, whose stream is cancelled when this task ends: also if that is before it is handed over."""
    task = asyncio.current_task()
    assert task is not None

    async def work() -> Answer | EventStream:
        answer = await call
        if isinstance(answer, EventStream):
            answer.cancel_with(task)
        return answer

    return work()


async def _unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of work, which is cancelled with a ClientDisconnect if the client hangs up before."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    """Returns when the client hangs up. The body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _method(request: Request) -> Method:
    if request.method in ("GET", "HEAD"):
        return "GET"
    if request.method == "POST":
        return "POST"
    raise MethodNotAllowedError(f"{request.method} is not used here.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _error_response(error: Exception) -> Response:
    status, body = to_response(error)
    headers = {"retry-after": RETRY_AFTER} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(body, status, headers)
