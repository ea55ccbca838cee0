"""Who looks at the page, and whether a request is the page's own doing.

A session is a cookie, which a browser sends along with whatever it is made to send. So a request that changes something
must come from this very origin and be JSON, which no form of another site can send. A key in the headers needs
neither: no other site knows it.
"""

from http.cookies import CookieError, SimpleCookie

from starlette.requests import Request
from starlette.responses import Response

from local_gateway.accounts.auth import ANONYMOUS, Authenticator, Principal
from local_gateway.config.settings import ServerSettings
from local_gateway.edge.browser_guard import check_host
from local_gateway.errors import AuthenticationError, ForbiddenError
from local_gateway.web.sessions import MAX_SECONDS, Sessions

SECURE_COOKIE = "__Host-gateway"  # browsers take it over HTTPS alone, for this host alone
COOKIE = "gateway_session"  # over HTTP, as on this machine
SIGN_IN = "Sign in with a key of this gateway."


class Visitors:
    def __init__(self, auth: Authenticator, sessions: Sessions, server: ServerSettings) -> None:
        self._auth = auth
        self._sessions = sessions
        self._server = server

    def principal(self, request: Request) -> Principal:
        """Raises AuthenticationError; ForbiddenError for another site's doing."""
        if not self._auth.needs_key:
            check_host(request.headers.get("host", ""), self._server.host)
            _check_own_doing(request)
            return ANONYMOUS
        if "authorization" in request.headers:
            return self._auth.authenticate(request.scope["headers"])
        _check_own_doing(request)
        key_id = self._sessions.key_id(session_id) if (session_id := session_of(request)) else None
        if key_id is None:
            raise AuthenticationError(SIGN_IN)
        return self._auth.authenticate_session(key_id)

    def sign_in(self, request: Request, secret: str) -> str:
        """The id of a new session. Raises AuthenticationError, RateLimitError, ForbiddenError."""
        _check_own_doing(request)
        self._sessions.check_rate()
        try:
            principal = self._auth.authenticate([(b"authorization", b"Bearer " + secret.encode())])
        except AuthenticationError:
            self._sessions.failed()
            raise AuthenticationError("This is no key of this gateway, or it is not valid any more.") from None
        return self._sessions.open(principal.id)

    def sign_out(self, request: Request) -> None:
        _check_own_doing(request)
        if session_id := session_of(request):
            self._sessions.close(session_id)


def session_of(request: Request) -> str:
    """The session's id in the cookies; empty if there is none."""
    try:
        cookies = SimpleCookie(request.headers.get("cookie", ""))
    except CookieError:
        return ""
    found = cookies.get(SECURE_COOKIE) or cookies.get(COOKIE)
    return found.value if found else ""


def set_session(request: Request, response: Response, session_id: str) -> None:
    """Out of reach of scripts, and of what other sites make the browser send."""
    is_secure = _is_secure(request)
    response.set_cookie(
        SECURE_COOKIE if is_secure else COOKIE,
        session_id,
        max_age=int(MAX_SECONDS),
        path="/",
        secure=is_secure,
        httponly=True,
        samesite="strict",
    )


def forget_session(response: Response) -> None:
    for name, is_secure in ((SECURE_COOKIE, True), (COOKIE, False)):
        response.delete_cookie(name, path="/", secure=is_secure, httponly=True, samesite="strict")


def _is_secure(request: Request) -> bool:
    """By the page's own address, as its browser says it: behind a proxy that ends TLS we speak plain HTTP."""
    return request.headers.get("origin", "").startswith("https://") or request.url.scheme == "https"


def _check_own_doing(request: Request) -> None:
    """Raises ForbiddenError for a change that another site asks for."""
    if request.method in ("GET", "HEAD"):
        return
    site = request.headers.get("sec-fetch-site")
    origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
    is_same = site == "same-origin" if site else bool(host) and origin in (f"http://{host}", f"https://{host}")
    if not is_same or request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise ForbiddenError("This address is for the gateway's own page.")
