"""Fetches what a client's URL names, from the public internet only.

Each hop is resolved once, all of its addresses are checked, and the connection goes to a checked address: a name that
answers otherwise the next time (DNS rebinding) changes nothing. Proxies of the environment are not used, since a proxy
would resolve the name again.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Timer

from handler.errors import InvalidRequestError
from handler.media.addresses import is_public
from handler.media.url import MediaUrl, parse_url

REDIRECTS = frozenset({301, 302, 303, 307, 308})
CHUNK = 1 << 16  # bytes read at once

Resolve = Callable[[str, int], list[str]]  # host, port -> its numeric addresses; raises OSError
Connect = Callable[[str, int, float], socket.socket]  # address, port, seconds -> a connection; raises OSError


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one URL may cost. `seconds` is for all hops together, from the first connection on."""

    schemes: frozenset[str] = frozenset({"https"})
    hosts: frozenset[str] = frozenset()  # the only ones, at each hop too; empty: any
    max_bytes: int = 20 << 20
    max_redirects: int = 3
    seconds: float = 10.0


def resolve(host: str, port: int) -> list[str]:
    """The numeric addresses of a host, in the system's order. Takes as long as the system's resolver waits."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def connect(address: str, port: int, seconds: float) -> socket.socket:
    return socket.create_connection((address, port), timeout=seconds)


def fetch(text: str, limits: FetchLimits, *, resolve: Resolve = resolve, connect: Connect = connect) -> bytes:
    """The body that the URL's server answers with 200. Blocks: for a thread, not for the event loop.

    Raises InvalidRequestError for URLs that may not be fetched, at the first hop or a later one, for bodies over the
    limit, and where the server cannot be reached or answers otherwise. Messages never name an address or what a server
    said, so that a client learns nothing about the network around the worker.
    """
    deadline = time.monotonic() + limits.seconds
    for _ in range(limits.max_redirects + 1):
        url = parse_url(text, limits.schemes)
        address = _checked_address(url, limits, resolve)
        try:
            location, body = _get(url, address, limits, deadline, connect)
        except (OSError, http.client.HTTPException):
            raise InvalidRequestError("The URL could not be fetched.") from None
        if location is None:
            return body
        text = url.joined(location)
    raise InvalidRequestError(f"The URL redirects more than {limits.max_redirects} times.")


def _checked_address(url: MediaUrl, limits: FetchLimits, resolve: Resolve) -> str:
    """One of the host's addresses, all of which are public: a host with one private address is refused whole."""
    if limits.hosts and url.host not in limits.hosts:
        raise InvalidRequestError("The URL's host is not among those that this server may fetch from.")
    try:
        addresses = resolve(url.host, url.port)
    except (OSError, UnicodeError):
        addresses = []
    if not addresses or not all(map(is_public, addresses)):
        raise InvalidRequestError("The URL's host is unknown, or not on the public internet.")
    return addresses[0]


def _get(
    url: MediaUrl, address: str, limits: FetchLimits, deadline: float, connect: Connect
) -> tuple[str | None, bytes]:
    """The redirect's location, or None and the body. Raises OSError, HTTPException, InvalidRequestError."""
    raw = connect(address, url.port, _left(deadline))
    # A peer that sends a byte now and then never meets a timeout of the socket, so a timer ends the connection. It has
    # a descriptor of its own, since TLS takes the socket over.
    with raw, closing(raw.dup()) as guard:
        timer = Timer(_left(deadline), _shut, (guard,))
        timer.daemon = True
        timer.start()
        connection = http.client.HTTPConnection(url.host, url.port)
        try:
            connection.sock = _with_tls(raw, url)
            headers = {"Accept": "image/*, audio/*", "Accept-Encoding": "identity", "Connection": "close"}
            connection.request("GET", url.target, headers=headers)
            return _answer(connection.getresponse(), limits, deadline)
        finally:
            timer.cancel()
            timer.join()  # so that it never shuts a descriptor that is another's by then
            connection.close()


def _answer(response: http.client.HTTPResponse, limits: FetchLimits, deadline: float) -> tuple[str | None, bytes]:
    with response:
        if response.status in REDIRECTS and (location := response.getheader("Location")):
            return location, b""
        if response.status != 200 or response.getheader("Content-Encoding", "identity").lower() != "identity":
            raise http.client.HTTPException
        if response.length is not None and response.length > limits.max_bytes:
            raise _too_large(limits)
        expected, body = response.length, bytearray()
        while chunk := response.read1(CHUNK):
            body += chunk
            if len(body) > limits.max_bytes:
                raise _too_large(limits)
            _left(deadline)
        if expected is not None and len(body) < expected:
            raise http.client.IncompleteRead(bytes(body))
        _left(deadline)  # the timer's end of a body without a length looks like the server's
        return None, bytes(body)


def _with_tls(raw: socket.socket, url: MediaUrl) -> socket.socket:
    if url.scheme == "http":
        return raw
    return ssl.create_default_context().wrap_socket(raw, server_hostname=url.host)


def _left(deadline: float) -> float:
    """Seconds until the deadline. Raises TimeoutError after it."""
    if (seconds := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return seconds


def _shut(guard: socket.socket) -> None:
    try:
        guard.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the peer has ended it already


def _too_large(limits: FetchLimits) -> InvalidRequestError:
    return InvalidRequestError(f"The URL's content is larger than {limits.max_bytes} bytes.")
