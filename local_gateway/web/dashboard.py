"""The dashboard's routes. What they answer is made in the modules beside this one.

GET    /                        the page; /ui/NAME are its files
GET    /ui/session              who is signed in;  POST {key}: sign in;  DELETE: sign out
GET    /ui/events               what happens now, as server-sent events
GET    /ui/usage[.csv]          ?by=model&since=2026-11-22
GET    /ui/models               names for the playground, and the targets' prices
POST   /ui/v1/chat/completions  a chat of the playground, paid by the session's key
POST   /ui/requests/ID/cancel
GET    /ui/keys                 POST: make one;  POST /ui/keys/ID/revoke
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from local_gateway.accounts.auth import Principal
from local_gateway.edge.request import read_body
from local_gateway.errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidRequestError,
    MethodNotAllowedError,
    RequestError,
    RouteNotFoundError,
    StoreError,
    UnavailableError,
    to_response,
)
from local_gateway.gateway import Gateway, distinct
from local_gateway.web import accounts_pages, assets
from local_gateway.web.health_board import HealthBoard
from local_gateway.web.sessions import Sessions
from local_gateway.web.snapshot import Json, is_changed, sees, snapshot
from local_gateway.web.visitor import Visitors, forget_session, set_session

log = logging.getLogger(__name__)

PERIOD = 0.5  # seconds between two looks at what happens
QUIET_SECONDS = 15.0  # after which a comment keeps the stream open
MAX_STREAMS = 100  # tabs, of all visitors
MAX_BODY_BYTES = 20_000  # of what the page sends, but for chats
BODY_SECONDS = 10.0
FIRST_KEY_SECONDS = 5.0
FAILED_SIGN_IN_SECONDS = 0.5  # slower than guessing wants
PRIVATE = {"cache-control": "no-store"}

Handler = Callable[[Request], Awaitable[Response]]
RunAs = Callable[[Principal, Scope, Receive, Send], Awaitable[None]]


class Dashboard:
    """Of one gateway. `run_as` answers a request of the API for a principal who is known already."""

    def __init__(self, gateway: Gateway, run_as: RunAs, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateway = gateway
        self._run_as = run_as
        self._assets = assets.load()
        self._sessions = Sessions(clock)
        self._visitors = Visitors(gateway.auth, self._sessions, gateway.active.settings.server)
        self._board = HealthBoard(clock)
        self._num_streams = 0

    def routes(self) -> list[Route]:
        tables: dict[str, dict[str, Handler]] = {
            "/": {"GET": self.page},
            "/ui/session": {"GET": self.session, "POST": self.sign_in, "DELETE": self.sign_out},
            "/ui/events": {"GET": self.events},
            "/ui/usage": {"GET": self.usage},
            "/ui/usage.csv": {"GET": self.usage_csv},
            "/ui/models": {"GET": self.models},
            "/ui/requests/{id}/cancel": {"POST": self.cancel},
            "/ui/keys": {"GET": self.keys, "POST": self.make_key},
            "/ui/keys/{id}/revoke": {"POST": self.revoke_key},
            "/ui/{path:path}": {"GET": self.asset},
        }
        routes = [Route(path, Endpoint(handlers)) for path, handlers in tables.items()]
        return [Route("/ui/v1/chat/completions", Playground(self._visitors, self._run_as)), *routes]

    # The page

    async def page(self, request: Request) -> Response:
        return self._answer(request, "index.html")

    async def asset(self, request: Request) -> Response:
        return self._answer(request, request.path_params["path"])

    def _answer(self, request: Request, name: str) -> Response:
        asset = self._assets.get(name)
        if asset is None:
            raise RouteNotFoundError("There is nothing at this address.")
        headers = {"etag": asset.etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=asset.type, headers=headers)

    # The session

    async def session(self, request: Request) -> Response:
        needs_key = self._gateway.auth.needs_key
        try:
            principal = self._visitors.principal(request)
        except AuthenticationError:
            return JSONResponse({"signed_in": False, "needs_key": needs_key})
        who = {"name": principal.name, "is_admin": principal.is_admin}
        return JSONResponse({"signed_in": True, "needs_key": needs_key, **who})

    async def sign_in(self, request: Request) -> Response:
        body = await _json(request)
        secret = body.get("key")
        if not isinstance(secret, str) or not secret.isascii():
            raise InvalidRequestError("key: must be a key of this gateway")
        try:
            session_id = self._visitors.sign_in(request, secret)
        except AuthenticationError:
            await asyncio.sleep(FAILED_SIGN_IN_SECONDS)
            raise
        response = JSONResponse({"signed_in": True})
        set_session(request, response, session_id)
        return response

    async def sign_out(self, request: Request) -> Response:
        self._visitors.sign_out(request)
        response = JSONResponse({"signed_in": False})
        forget_session(response)
        return response

    # Now

    async def events(self, request: Request) -> Response:
        principal = self._visitors.principal(request)
        if self._num_streams >= MAX_STREAMS:
            raise UnavailableError("Too many pages are open.", retry_after=10.0)
        headers = {**PRIVATE, "x-accel-buffering": "no"}
        return StreamingResponse(self._stream(request, principal), media_type="text/event-stream", headers=headers)

    async def _stream(self, request: Request, principal: Principal) -> AsyncIterator[str]:
        """Until the page is closed, its key is revoked, or the gateway stops."""
        self._num_streams += 1
        shown: Json | None = None
        quiet = 0.0
        try:
            yield "retry: 1000\n\n"
            while not self._gateway.is_stopping.is_set():
                now = snapshot(self._gateway, self._board, principal)
                if is_changed(shown, now):
                    shown, quiet = now, 0.0
                    yield f"event: now\ndata: {json.dumps(now, separators=(',', ':'))}\n\n"
                elif (quiet := quiet + PERIOD) >= QUIET_SECONDS:
                    quiet = 0.0
                    yield ": still here\n\n"
                await self._pause()
                principal = self._visitors.principal(request)
        except RequestError:
            return  # the page asks who it is, and is told
        finally:
            self._num_streams -= 1

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PERIOD):
                await self._gateway.is_stopping.wait()

    async def cancel(self, request: Request) -> Response:
        principal = self._visitors.principal(request)
        live = self._gateway.live_requests.find(request.path_params["id"])
        if live is None or not sees(principal, live.key_id):
            raise RouteNotFoundError("No such request is running.")
        live.cancel()
        log.info("request %s: cancelled on the dashboard by %s", live.id, principal.name)
        return JSONResponse({"cancelled": True})

    # Usage, models, keys

    async def usage(self, request: Request) -> Response:
        principal = self._visitors.principal(request)
        return JSONResponse(await self._in_database(accounts_pages.usage, principal, *_query(request)))

    async def usage_csv(self, request: Request) -> Response:
        principal = self._visitors.principal(request)
        by, since = _query(request)
        text = await self._in_database(accounts_pages.usage_csv, principal, by, since)
        headers = {"content-disposition": f'attachment; filename="usage-by-{by}.csv"'}
        return PlainTextResponse(text, media_type="text/csv", headers=headers)

    async def models(self, request: Request) -> Response:
        principal = self._visitors.principal(request)
        names = [model["id"] for model in await self._gateway.active.models.all(principal)]
        prices = {target.name: target.settings.price.model_dump() for target in distinct(self._gateway.active.targets)}
        return JSONResponse({"models": names, "prices": prices})

    async def keys(self, request: Request) -> Response:
        self._administrator(request)
        return JSONResponse({"keys": await self._in_database(accounts_pages.keys)})

    async def make_key(self, request: Request) -> Response:
        self._administrator(request)
        is_first = not self._gateway.auth.needs_key
        body = await _json(request)
        if is_first and body.get("is_admin") is not True:
            raise InvalidRequestError(
                "The first key must be an administrator's, or this page would be closed for good."
            )
        secret, key = await self._in_database(accounts_pages.make_key, body)
        response = JSONResponse({"name": key.name, "secret": secret})
        if is_first:
            await self._until_keys_are_asked_for()
            set_session(request, response, self._sessions.open(key.id))
        return response

    async def _until_keys_are_asked_for(self) -> None:
        """The gateway looks at its database once a second; the page must not be told before that it is signed in."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_KEY_SECONDS):
                while not self._gateway.auth.needs_key:  # noqa: ASYNC110 - the keyring has no event for it
                    await asyncio.sleep(0.05)

    async def revoke_key(self, request: Request) -> Response:
        self._administrator(request)
        await self._in_database(accounts_pages.revoke_key, request.path_params["id"])
        return JSONResponse({"revoked": True})

    def _administrator(self, request: Request) -> Principal:
        principal = self._visitors.principal(request)
        if not principal.is_admin:
            raise ForbiddenError("Keys are for administrators.")
        return principal

    async def _in_database(self, call: Callable[..., Any], *args: Any) -> Any:
        """In a thread, because it waits. Raises UnavailableError instead of StoreError."""
        try:
            return await asyncio.to_thread(call, self._gateway.active.settings.database.url, *args)
        except StoreError as error:
            log.warning("the dashboard cannot use the database: %s", error)
            raise UnavailableError("The database cannot be used now.", retry_after=5.0) from error


class Endpoint:
    """One path: a handler for each method, errors as everywhere, headers as the page needs them."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = {**handlers, "HEAD": handlers["GET"]} if "GET" in handlers else handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            handler = self._handlers.get(request.method)
            if handler is None:
                raise MethodNotAllowedError(request.method, tuple(self._handlers))
            response = await handler(request)
        except Exception as error:
            response = _error(error)
        for name, value in {**assets.HEADERS, **PRIVATE}.items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)


class Playground:
    """A chat of the page: a request of the API like others, but for how it is known who sends it."""

    def __init__(self, visitors: Visitors, run_as: RunAs) -> None:
        self._visitors = visitors
        self._run_as = run_as

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            principal = self._visitors.principal(Request(scope, receive))
        except Exception as error:
            await _error(error)(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
        inner = {**scope, "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "headers": headers}
        await self._run_as(principal, inner, receive, send)


def _error(error: Exception) -> Response:
    told = to_response(error)
    return JSONResponse(told.body, told.status, told.headers)


def _query(request: Request) -> tuple[str, str]:
    return request.query_params.get("by", "model"), request.query_params.get("since", "")


async def _json(request: Request) -> dict[str, Any]:
    """The object in a body. Raises InvalidRequestError, PayloadTooLargeError."""
    headers = request.scope["headers"]
    raw = await read_body(headers, request.receive, max_bytes=MAX_BODY_BYTES, timeout=BODY_SECONDS)
    try:
        body = json.loads(raw)
    except ValueError:
        raise InvalidRequestError("The body is no JSON.") from None
    if not isinstance(body, dict):
        raise InvalidRequestError("The body must be an object.")
    return body
