"""Which proxy leads to a target."""

import pytest

from local_gateway.config.proxy import ProxyRules
from local_gateway.errors import ConfigError

RULES = ProxyRules("http://p:1", "http://s:2", ("internal", ".corp.example", "10.0.0.0/8", "one.example:8443", "[::5]"))


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://api.openai.com/v1", "http://s:2"),
        ("http://api.example/v1", "http://p:1"),
        ("http://internal/v1", None),
        ("http://a.internal./v1", None),
        ("http://notinternal/v1", "http://p:1"),
        ("https://a.corp.example/v1", None),
        ("https://corp.example/v1", None),
        ("http://10.1.2.3:8000/v1", None),
        ("http://11.1.2.3:8000/v1", "http://p:1"),
        ("https://one.example:8443/v1", None),
        ("https://one.example/v1", "http://s:2"),
        ("http://[::5]/v1", None),
        ("http://127.0.0.1:8000/v1", None),
        ("http://[::1]:8000/v1", None),
        ("http://localhost:8000/v1", None),
    ],
)
def test_a_proxy_for_a_target(url: str, proxy: str | None) -> None:
    """gateway.md D1: by scheme; hosts, domains, networks and this machine are reached directly."""
    assert RULES.proxy_for(url) == proxy


def test_the_environment() -> None:
    """Small letters count more, ALL_PROXY stands in, and a proxy may be written without a scheme."""
    environ = {"https_proxy": "s:2", "HTTPS_PROXY": "http://x", "ALL_PROXY": "http://a:3", "no_proxy": "a , *.b"}

    assert ProxyRules.from_environ(environ) == ProxyRules("http://a:3", "http://s:2", ("a", "*.b"))
    assert ProxyRules.from_environ({"HTTP_PROXY": "http://a", "NO_PROXY": "*"}).proxy_for("http://x") is None
    assert ProxyRules.from_environ({}).proxy_for("https://x") is None


@pytest.mark.parametrize("proxy", ["socks5://a:1", "http://", "http://a:99999", "://"])
def test_a_proxy_that_cannot_be_used(proxy: str) -> None:
    """It is an error at the start, not a target that seems to be down."""
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        ProxyRules.from_environ({"HTTPS_PROXY": proxy})
