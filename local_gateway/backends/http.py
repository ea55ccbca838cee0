"""HTTP to targets: one pool of connections, errors in the gateway's words, bytes as they come (decoded, if they must).

No message has an address or a query in it: they go to clients.
"""

import asyncio
import errno
import io
import math
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, NamedTuple
from urllib.parse import quote

import aiohttp
from yarl import URL

from local_gateway.backends.visible_headers import pause_of, visible_headers
from local_gateway.config.proxy import ProxyRules
from local_gateway.config.settings import TimeoutSettings
from local_gateway.errors import (
    AnswerBrokenError,
    ConfigError,
    GatewayExhaustedError,
    TargetError,
    TargetTimeoutError,
    TargetUnreachableError,
)
from local_gateway.wire.call_ledger import ExecutionStats
from local_gateway.wire.content_coding import ContentCodingError, ContentDecoder

MAX_DECODED_BYTES = 100_000_000  # of a compressed body
MAX_FETCHED_BYTES = 100_000_000
OWN_HEADERS = {"accept-encoding": "identity", "user-agent": "local-gateway"}
INVALID = "its address is not valid"
REASONS: dict[type[Exception], str] = {
    TimeoutError: "no connection in time",
    aiohttp.ClientProxyConnectionError: "no connection to the proxy",
    aiohttp.ClientConnectorDNSError: "its host name is not known",
    aiohttp.ClientSSLError: "no TLS, or its certificate is not accepted",
    aiohttp.InvalidURL: INVALID,
}
# Of this process and machine: files, memory, ports.
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}
URL_CHARS = "/?:@!$&'()*+,;=%~-._[]"  # stay as they are; all else is escaped

Tls = ssl.SSLContext | Literal[True]  # True: as for all targets

# Signs of a kept connection that the target had closed before the request came.
STALE = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)


class _DroppedError(Exception):
    """A connection broke before the answer's head was there. aiohttp would send some requests again by itself."""


class Reply(NamedTuple):
    """A whole answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class HttpUpstream:
    """An answer over HTTP that has begun."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        """Raises AnswerBrokenError for a compression that is not known."""
        self.status = response.status
        self.headers: Mapping[str, str] = visible_headers(response.headers) | pause_of(self.status, response.headers)
        self._response = response
        self._decoder = _decoder_of(response)
        self._decoded: Iterator[bytes] = iter(())
        self._held: list[bytes] = []  # read before the client asked

    def header(self, name: str) -> str:
        """Any header of the target's; empty if it sent none of that name."""
        return self._response.headers.get(name, "")

    async def read(self, max_bytes: float = math.inf) -> bytes:
        """The whole body, or its beginning if it is longer than `max_bytes`. Iterating gives it once more."""
        num_bytes = 0
        while num_bytes <= max_bytes and (piece := await self._next()):
            self._held.append(piece)
            num_bytes += len(piece)
        return b"".join(self._held)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = self._held.pop(0) if self._held else await self._next()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def _next(self) -> bytes:
        """b"" is the end. Raises TargetError if there is none."""
        if self._decoder.is_identity:
            return await self._receive()
        try:
            while not (piece := next(self._decoded, b"")):
                if not (received := await self._receive()):
                    self._decoder.end()
                    return b""
                self._decoded = self._decoder.feed(received)
        except ContentCodingError as error:
            raise AnswerBrokenError(f"The target's answer cannot be read: {error}.") from error
        return piece

    async def _receive(self) -> bytes:
        """The next bytes as they were sent; b"" is the end."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise TargetUnreachableError("The connection to the target broke off.") from error

    async def aclose(self) -> None:
        """Closes the connection if more may come: that is how a target learns to stop. Else the pool has it already."""
        self._response.close()

    async def execution_stats(self) -> ExecutionStats:
        return ExecutionStats()


class HttpClient:
    """Requests to targets. One for all of them; made anywhere, used in one event loop.

    A request whose kept connection turns out to be closed is sent once more on a new one: the target has not seen it.
    Targets outside this machine are reached through the proxies of the rules.
    """

    def __init__(self, timeouts: TimeoutSettings, proxies: ProxyRules | None = None, *, ca_file: str = "") -> None:
        """`ca_file` is trusted for all targets, beside the system's authorities. Raises ConfigError if it cannot be."""
        self._ca_file = ca_file
        self._tls: Tls = _trusting(ca_file) if ca_file else True
        self._timeouts = timeouts
        self._proxies = proxies or ProxyRules()
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    def tls_trusting(self, ca_file: str) -> Tls:
        """For `open` and `fetch`: this authority beside those of all targets. Raises ConfigError if it cannot be."""
        return _trusting(*filter(None, (self._ca_file, ca_file))) if ca_file else self._tls

    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        on_sent: Callable[[], None] | None = None,
        tls: Tls = True,
    ) -> HttpUpstream:
        """Send it; return when status and headers are there, whatever the status. Without a limit of time.

        `on_sent` is called when the head of the request is on a connection: from then on the target may work on it.
        Raises TargetUnreachableError, TargetTimeoutError, and AnswerBrokenError where it cannot be passed on.
        """
        response = await self._send(method, url, headers or {}, body, on_sent=on_sent, tls=tls)
        try:
            _check_status(response.status)
            return HttpUpstream(response)
        except TargetError:
            response.close()
            raise

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float,  # noqa: ASYNC109 - a caller's own deadline would not become the gateway's error
        may_repeat: bool = True,
        tls: Tls = True,
    ) -> Reply:
        """A whole answer within `timeout` seconds. With `may_repeat` False it is sent once, whatever happens.

        Raises the same as `open`.
        """
        try:
            async with asyncio.timeout(timeout):
                response = await self._send(method, url, headers or {}, body, may_repeat=may_repeat, tls=tls)
                try:
                    content = await HttpUpstream(response).read(MAX_FETCHED_BYTES)
                finally:
                    response.close()
        except TimeoutError as error:
            raise TargetTimeoutError(f"The target did not answer within {timeout:g} s.") from error
        if len(content) > MAX_FETCHED_BYTES:
            raise AnswerBrokenError("The target's answer is too large.")
        return Reply(response.status, {name.lower(): value for name, value in response.headers.items()}, content)

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        may_repeat: bool = True,
        on_sent: Callable[[], None] | None = None,
        tls: Tls = True,
    ) -> aiohttp.ClientResponse:
        address = _parse_url(url)
        connection = SimpleNamespace(is_reused=False, on_sent=on_sent, tls=tls)
        try:
            try:
                return await self._request(method, address, headers, body, connection)
            except _DroppedError:
                if not (may_repeat and connection.is_reused):
                    raise
            return await self._request(method, address, headers, body, connection, is_fresh=True)
        except _DroppedError as error:
            raise TargetUnreachableError("The target closed the connection without an answer.") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _translate(error) from error

    async def _request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes,
        connection: SimpleNamespace,
        *,
        is_fresh: bool = False,
    ) -> aiohttp.ClientResponse:
        return await self._session(is_fresh).request(
            method,
            url,
            headers={**OWN_HEADERS, **headers},
            data=io.BytesIO(body) if body else None,  # aiohttp warns of large bytes, which it writes at once
            allow_redirects=False,
            proxy=self._proxies.proxy_for(str(url)),
            ssl=connection.tls,
            trace_request_ctx=connection,
        )

    def _session(self, is_fresh: bool) -> aiohttp.ClientSession:
        """The pool, or one that opens a connection for every request. Made late: they belong to an event loop."""
        if is_fresh not in self._sessions:
            self._sessions[is_fresh] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=is_fresh, ssl=self._tls),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                trace_configs=[_trace_connection()],
                middlewares=[_send_once],
            )
        return self._sessions[is_fresh]


def _trusting(*ca_files: str) -> ssl.SSLContext:
    """The system's authorities and those in the files. Raises ConfigError for a file that has none."""
    context = ssl.create_default_context()
    for ca_file in ca_files:
        if not Path(ca_file).is_file():
            raise ConfigError(f"ca_file: there is no file {ca_file}.")
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:
            raise ConfigError(f"ca_file: {ca_file} cannot be used: {error.strerror or error}.") from error
    return context


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps aiohttp from repeating: what a repeated read of a job's stream had got before would be lost."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except STALE as error:
        raise _DroppedError from error


def _trace_connection() -> aiohttp.TraceConfig:
    """Tells through `trace_request_ctx` whether a kept connection was used, and when the request's head is sent."""

    async def note_reuse(_session: object, context: SimpleNamespace, _params: object) -> None:
        context.trace_request_ctx.is_reused = True

    async def note_sent(_session: object, context: SimpleNamespace, _params: object) -> None:
        if context.trace_request_ctx.on_sent is not None:
            context.trace_request_ctx.on_sent()

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(note_reuse)
    trace.on_request_headers_sent.append(note_sent)
    return trace


@lru_cache(maxsize=256)  # most requests go to one of a few addresses
def _parse_url(url: str) -> URL:
    """As it is written, but for what no address may have in it."""
    try:
        return URL(quote(url, safe=URL_CHARS), encoded=True)
    except ValueError as error:
        raise TargetUnreachableError(f"The target could not be reached: {INVALID}.") from error


def _translate(error: Exception) -> TargetError:
    """The gateway's own error: an aiohttp error may have the whole address in it."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return TargetUnreachableError(
            f"The target could not be reached: the proxy answered with status {error.status}."
        )
    if isinstance(error, aiohttp.ClientResponseError):
        return AnswerBrokenError("What the target answered is not HTTP.")
    if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
        return GatewayExhaustedError(f"The gateway is out of resources: {os.strerror(error.errno)}.")
    if isinstance(error, aiohttp.ClientConnectorDNSError) and (number := _lack_of_resources()):
        return GatewayExhaustedError(f"The gateway is out of resources: {os.strerror(number)}.")
    reason = next((reason for kind, reason in REASONS.items() if isinstance(error, kind)), "")
    if not reason and isinstance(error, OSError) and error.errno and error.errno > 0:
        reason = os.strerror(error.errno)
    return TargetUnreachableError(f"The target could not be reached{reason and ': '}{reason}.")


def _lack_of_resources() -> int:
    """The system's number of what is missing for one more socket; 0 if nothing is.

    A resolver that could open no file says that the name is not known, and nothing of files.
    """
    try:
        socket.socket().close()
    except OSError as error:
        return error.errno if error.errno in OUT_OF_RESOURCES else 0
    return 0


def _check_status(status: int) -> None:
    """What is not an answer to a plain request, or no status of HTTP, cannot be sent to a client."""
    if 300 <= status < 400:
        raise AnswerBrokenError("The target redirects to another address, which is not followed.")
    if not 200 <= status < 600:
        raise AnswerBrokenError(f"The target answered with status {status}, which is no status of an answer.")


def _decoder_of(response: aiohttp.ClientResponse) -> ContentDecoder:
    """Some servers compress although they are asked not to. Raises AnswerBrokenError."""
    try:
        encodings = ",".join(response.headers.getall("content-encoding", ()))
        return ContentDecoder(encodings, MAX_DECODED_BYTES, believes_data=True)
    except ContentCodingError as error:
        raise AnswerBrokenError(f"The target's answer cannot be read: {error}.") from error
