"""The HTTP edge: the same API as jobs get, for load-balancing endpoints, pods and laptops.

    /ping      204 while the model loads, 200 when it answers, 503 when it cannot any more; RunPod asks it
    /health    the same as JSON, with what the engine holds
    /metrics   its counters and the times of its steps, for Prometheus
    /v1/...    the API; behind a bearer key if one is set

A client that hangs up frees its slot, streaming or not.
"""

import hmac
from functools import partial
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from handler.api.routes import Method
from handler.errors import AuthenticationError, MethodNotAllowedError, UnavailableError
from handler.http import metrics
from handler.http.body import read_json
from handler.http.browser_guard import BrowserGuard
from handler.http.responses import ApiResponse, error_response
from handler.settings import Settings
from handler.worker import Worker

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
KEY_HEADERS = ("x-api-key", "api-key")  # Anthropic's and Azure's, beside OpenAI's Authorization


class HttpEdge:
    """The application. `worker` is None until the model is loaded; all methods run on the server's event loop."""

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
            ],
            middleware=[Middleware(BrowserGuard, settings)],
        )

    async def ping(self, _request: Request) -> Response:
        """RunPod's load balancer sends traffic while this is 200, and waits while it is 204."""
        if self.worker is None:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        return Response(status_code=HTTPStatus.OK if self.worker.engine.is_healthy else HTTPStatus.SERVICE_UNAVAILABLE)

    async def health(self, _request: Request) -> Response:
        """The engine's state, limits and counters as JSON; 503 unless it answers."""
        if self.worker is None:
            return JSONResponse({"status": "loading"}, HTTPStatus.SERVICE_UNAVAILABLE)
        engine = self.worker.engine
        if not engine.is_healthy:
            return JSONResponse({"status": "unhealthy"}, HTTPStatus.SERVICE_UNAVAILABLE)
        return JSONResponse({"status": "ok", **engine.state()})

    async def metrics(self, _request: Request) -> Response:
        """The engine's counters for Prometheus; 503 while the model loads."""
        if self.worker is None:
            return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        return Response(metrics.render(self.worker.engine), media_type=metrics.CONTENT_TYPE)

    async def call(self, request: Request) -> Response:
        """A request to the API: checked and read here, answered by the response."""
        route: str = request.path_params["route"]
        try:
            self._authenticate(request)
            method = _method(request)
            body = await read_json(request, self._max_body_bytes) if method == "POST" else None
            api = self._require_worker().api
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)  # the connection is closed: it is not sent
        except Exception as error:
            return error_response(error, route)
        return ApiResponse(partial(api.call, route, body, method), route)

    def _authenticate(self, request: Request) -> None:
        if self._api_key and not any(hmac.compare_digest(key, self._api_key) for key in _keys(request)):
            raise AuthenticationError("The API key is missing or wrong: send 'Authorization: Bearer KEY'.")

    def _require_worker(self) -> Worker:
        if self.worker is None:
            raise UnavailableError("The model is still loading.", code="loading")
        return self.worker


def _keys(request: Request) -> list[bytes]:
    """The keys that the request shows, as the bytes that were sent."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    keys = [bearer] if scheme.lower() == "bearer" else []
    keys += [request.headers[name] for name in KEY_HEADERS if name in request.headers]
    return [key.strip().encode("latin-1") for key in keys]


def _method(request: Request) -> Method:
    if request.method in ("GET", "HEAD"):
        return "GET"
    if request.method == "POST":
        return "POST"
    raise MethodNotAllowedError(f"{request.method} is not used here.")
