"""Web pages must not reach a gateway without keys, which trusts every client that reaches it.

A page anywhere can make its visitor's browser send requests to this machine: directly, which the browser marks with
an Origin, or under a name of its own that it lets point here (DNS rebinding), which the Host header shows. Where keys
are asked for, they are the protection.
"""

import ipaddress
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from local_gateway.config.settings import ServerSettings
from local_gateway.edge.request import header
from local_gateway.edge.response import ResponseWriter
from local_gateway.errors import ForbiddenError, InvalidRequestError, RequestError

LOCAL_NAMES = ("localhost", "host.docker.internal")


class BrowserGuard:
    """Middleware. `asks_for_keys` is asked for every request, because keys come and go."""

    def __init__(self, app: ASGIApp, server: ServerSettings, asks_for_keys: Callable[[], bool]) -> None:
        self._app = app
        self._server = server
        self._asks_for_keys = asks_for_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(header(scope["headers"], b"origin"), header(scope["headers"], b"host"))
        except RequestError as error:
            await ResponseWriter(send, {}).error(error)
        else:
            await self._app(scope, receive, send)

    def _check(self, origin: str, host: str) -> None:
        if self._asks_for_keys():
            return
        is_own_page = _is_own_page(origin, host)
        if not is_own_page:
            check_origin(origin, self._server.cors_origins)
        if is_own_page or not self._server.insecure:  # its name may be one that leads here only now
            check_host(host, self._server.host)


def _is_own_page(origin: str, host: str) -> bool:
    """The dashboard, which this gateway serves itself."""
    return bool(host) and origin in (f"http://{host}", f"https://{host}")


def check_origin(origin: str, allowed: tuple[str, ...]) -> None:
    """Raises ForbiddenError."""
    if origin and origin not in allowed and "*" not in allowed:
        raise ForbiddenError("Web pages from this origin may not call this gateway: see server.cors_origins.")


@lru_cache(maxsize=64)  # hosts that pass are few, and parsing one takes longer than reading the request
def check_host(host: str, own: str) -> None:
    """Raises ForbiddenError."""
    try:
        name = urlsplit(f"//{host}").hostname or "" if host else "localhost"
    except ValueError:
        raise InvalidRequestError("The Host header is not valid.") from None
    if name not in (*LOCAL_NAMES, own) and not name.endswith(".localhost") and not _is_address(name):
        raise ForbiddenError("This gateway has no keys and is reached by its address only, not by this name.")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
