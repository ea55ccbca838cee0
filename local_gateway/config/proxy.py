"""Which proxy leads to a target: the rules of HTTP_PROXY, HTTPS_PROXY and NO_PROXY. Pure."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from local_gateway.errors import ConfigError

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """Proxies by the scheme of the target, and the hosts that are reached without one.

    An entry of `direct` is a host, which includes its subdomains, a host with a port, an address, a network, or `*`.
    This machine itself is always reached without a proxy: a worker that the gateway started listens there.
    """

    http: str = ""
    https: str = ""
    direct: tuple[str, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "ProxyRules":
        """The names are read in small letters too, which count more; ALL_PROXY stands in for both schemes.

        Raises ConfigError for a proxy that does not speak HTTP, or has no address.
        """

        def read(name: str) -> str:
            return environ.get(name.lower()) or environ.get(name) or ""

        proxies = {name: _checked(name, read(name) or read("ALL_PROXY")) for name in ("HTTP_PROXY", "HTTPS_PROXY")}
        direct = tuple(entry.strip().lower() for entry in read("NO_PROXY").split(",") if entry.strip())
        return cls(proxies["HTTP_PROXY"], proxies["HTTPS_PROXY"], direct)

    def proxy_for(self, url: str) -> str | None:
        """The proxy for a target's URL. None: it is reached directly."""
        if not (self.http or self.https):
            return None
        parts = urlsplit(url)
        proxy = self.https if parts.scheme == "https" else self.http
        host = (parts.hostname or "").rstrip(".")
        if not proxy or _is_this_machine(host):
            return None
        port = parts.port or PORTS.get(parts.scheme, 0)
        return None if any(_matches(entry, host, port) for entry in self.direct) else proxy


def _checked(name: str, proxy: str) -> str:
    if not proxy:
        return ""
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigError(f"{name}: must be the address of an HTTP proxy, as http://proxy:3128.")
    return url


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    with suppress(ValueError):  # one of them is a name
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    name, colon, own_port = entry.rpartition(":")
    if colon and own_port.isdecimal():
        entry = name.strip("[]")
        if int(own_port) != port:
            return False
    name = entry.removeprefix("*").lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))
