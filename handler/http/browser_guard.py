"""A worker without a key trusts every client that reaches it. Web pages must not be among them.

A page anywhere can make its visitor's browser send requests to this machine: directly, which the browser marks with an
Origin, or under a name of the page's own that points here (DNS rebinding), which shows in the Host. Where a key is
asked for, the key is the protection.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from handler.errors import ForbiddenError, RequestError
from handler.http.responses import error_response
from handler.settings import Settings

LOCAL_NAMES = ("localhost", "host.docker.internal")


class BrowserGuard:
    """ASGI middleware. Refuses foreign origins, and on a loopback address foreign names, where no key is set.

    On any other address every Host is served: behind a load balancer the worker does not know its own name.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._is_open = not settings.api_key.get_secret_value()
        self._own_name = settings.host
        self._checks_host = is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._is_open:
                self._check(dict(scope["headers"]))
        except RequestError as error:
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if self._checks_host and not self._is_own(name_of(host)):
            raise ForbiddenError(
                "This worker has no API key and is reached by its address only, not by the name in the Host header."
            )
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            raise ForbiddenError(
                "Web pages of another origin may not call a worker without an API key. Set API_KEY, or call it from "
                "a server."
            )

    def _is_own(self, name: str) -> bool:
        return name in ("", self._own_name, *LOCAL_NAMES) or name.endswith(".localhost") or is_address(name)


def name_of(host: str) -> str:
    """The host's name without its port, in lower case; empty for an HTTP/1.0 request without Host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return host


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)
