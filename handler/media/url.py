"""A URL from a client, split strictly: what parsers disagree about is refused rather than interpreted."""

import re
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from handler.errors import InvalidRequestError

PORTS = {"http": 80, "https": 443}
MAX_LENGTH = 8192  # characters
PRINTABLE = re.compile(r"[!-~]+")  # ASCII without spaces and control characters
NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
DOTTED_QUAD = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})")


class MediaUrl(NamedTuple):
    """The parts of an http(s) URL that a request needs. `host` is in lower case, without brackets and final dot."""

    scheme: str
    host: str
    target: str  # path and query, as they go into the request line

    @property
    def port(self) -> int:
        return PORTS[self.scheme]

    def joined(self, location: str) -> str:
        """Where a redirect from here leads; not checked yet. Raises InvalidRequestError where it cannot be read."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            return urljoin(f"{self.scheme}://{host}{self.target}", location)
        except ValueError:
            raise InvalidRequestError("The URL redirects to one that cannot be read.") from None


def parse_url(text: str, schemes: frozenset[str]) -> MediaUrl:
    """Raises InvalidRequestError for another scheme, a user or password, another port than the scheme's own, and hosts
    that are written in a way that only some parsers read as an address (2130706433, 0x7f.1, 0177.0.0.1, 127.1)."""
    if len(text) > MAX_LENGTH or not PRINTABLE.fullmatch(text) or "\\" in text:
        raise InvalidRequestError("The URL is too long, or has characters that a URL cannot have.")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidRequestError("The URL cannot be read.") from None
    if parts.scheme not in schemes:
        raise InvalidRequestError(f"The URL's scheme has to be {' or '.join(sorted(schemes))}.")
    if "@" in parts.netloc:
        raise InvalidRequestError("The URL must not have a user or password.")
    if port not in (None, PORTS[parts.scheme]):
        raise InvalidRequestError("The URL must not have another port than its scheme's.")
    host = (parts.hostname or "").removesuffix(".")
    if not (_is_ipv6(host) if parts.netloc.startswith("[") else _is_name_or_ipv4(host)):
        raise InvalidRequestError("The URL's host is not a name or a plainly written address.")
    query = f"?{parts.query}" if parts.query else ""
    return MediaUrl(parts.scheme, host, (parts.path or "/") + query)


def _is_ipv6(host: str) -> bool:
    try:
        return IPv6Address(host).scope_id is None
    except ValueError:
        return False


def _is_name_or_ipv4(host: str) -> bool:
    if NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
        return bool(DOTTED_QUAD.fullmatch(host))
    return len(host) <= 253 and bool(NAME.fullmatch(host))
