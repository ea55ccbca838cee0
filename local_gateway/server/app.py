"""The gateway as an ASGI application: one table of routes, one list of middleware."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from local_gateway.accounts.auth import Principal
from local_gateway.config.settings import ServerSettings
from local_gateway.edge.api_paths import MODEL_PATHS, canonical
from local_gateway.edge.browser_guard import BrowserGuard
from local_gateway.edge.openapi import DOCUMENT
from local_gateway.edge.response import ResponseWriter
from local_gateway.errors import ErrorResponse, MethodNotAllowedError, RouteNotFoundError, to_response
from local_gateway.gateway import Gateway, distinct
from local_gateway.server.exchange import Exchange
from local_gateway.telemetry.metrics import CONTENT_TYPE
from local_gateway.web.dashboard import Dashboard

PAGE_METHODS = ("GET", "HEAD")
FOR_ADMINS = "the metrics are open to keys made with --admin."
Handler = Callable[[Gateway, Request], Awaitable[Response]]


def create_app(gateway: Gateway) -> ASGIApp:
    server = gateway.active.settings.server
    pages = {
        "/healthz": healthz,
        "/readyz": readyz,
        "/metrics": metrics,
        "/openapi.json": openapi,
        "/models": models,
        "/models/{model:path}": model,
    }

    async def run_as(principal: Principal, scope: Scope, receive: Receive, send: Send) -> None:
        await Exchange(gateway, scope, receive, send, principal).run()

    api = Api(gateway)
    app = Starlette(
        routes=[
            *(Route(prefix + path, Page(gateway, page)) for path, page in pages.items() for prefix in ("", "/v1")),
            *Dashboard(gateway, run_as).routes(),
        ],
        middleware=[
            Middleware(CanonicalPaths),
            *_cors(server),
            Middleware(BrowserGuard, server=server, asks_for_keys=lambda: gateway.auth.needs_key),
            Middleware(ModelPaths, api=api),
        ],
    )
    app.router.redirect_slashes = False
    app.router.default = api  # no pattern of a route matches every path
    return app


def _cors(server: ServerSettings) -> list[Middleware]:
    if not server.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(server.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            allow_private_network=True,  # of the origins that are listed: a page elsewhere, a gateway on this machine
            expose_headers=["x-request-id", "x-gateway-target", "x-gateway-cache", "retry-after"],
        )
    ]


class CanonicalPaths:
    """ASGI middleware: pages and the API are found under each base URL that clients are told or make up."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].isprintable():  # Starlette takes "/\n" for "/"
            await ResponseWriter(send, {}).error(RouteNotFoundError("There is nothing at this address."))
            return
        if scope["type"] == "http" and (path := canonical(scope["path"])):
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)


class ModelPaths:
    """ASGI middleware: what models answer goes to the API at once. Comparing its path to each route would take longer
    than to read the request, and each layer more costs time with each event."""

    def __init__(self, app: ASGIApp, api: ASGIApp) -> None:
        self._app = app
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_for_model = scope["type"] == "http" and scope["path"] in MODEL_PATHS
        await (self._api if is_for_model else self._app)(scope, receive, send)


class Api:
    """Everything of OpenAI's API that a target answers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Exchange(self._gateway, scope, receive, send).run()


class Page:
    """What the gateway answers itself."""

    def __init__(self, gateway: Gateway, handler: Handler) -> None:
        self._gateway = gateway
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            if request.method not in PAGE_METHODS:
                raise MethodNotAllowedError(request.method, PAGE_METHODS)
            response = await self._handler(self._gateway, request)
        except Exception as error:
            response = _error(to_response(error))
        await response(scope, receive, send)


def _error(error: ErrorResponse) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def healthz(gateway: Gateway, request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok"})


async def readyz(gateway: Gateway, request: Request) -> Response:
    """Keys are known, and there is a target that is not known to be broken."""
    states = {state for target in distinct(gateway.active.targets) for state in target.states}
    is_ready = gateway.auth.is_ready and not states <= {"open", "config_error"}
    return JSONResponse({"status": "ready" if is_ready else "not ready"}, 200 if is_ready else 503)


async def metrics(gateway: Gateway, request: Request) -> Response:
    """All models, targets and costs are in it, so it is for administrators where the gateway has keys."""
    if not gateway.auth.authenticate(request.scope["headers"]).is_admin:
        raise RouteNotFoundError(f"There is nothing at this address for this key: {FOR_ADMINS}")
    return Response(gateway.exposition(), media_type=CONTENT_TYPE)


async def openapi(gateway: Gateway, request: Request) -> Response:
    return JSONResponse(DOCUMENT)


async def models(gateway: Gateway, request: Request) -> Response:
    principal = gateway.auth.authenticate(request.scope["headers"])
    return JSONResponse({"object": "list", "data": await gateway.active.models.all(principal)})


async def model(gateway: Gateway, request: Request) -> Response:
    name = request.path_params["model"].rstrip("/")
    if not name:
        return await models(gateway, request)
    principal = gateway.auth.authenticate(request.scope["headers"])
    return JSONResponse(gateway.active.models.one(principal, name))
