"""How strictly a client's URL is read."""

import pytest

from handler.errors import InvalidRequestError
from handler.media.url import MediaUrl, parse_url

BOTH = frozenset({"http", "https"})


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://host.test/a.png", MediaUrl("https", "host.test", "/a.png")),
        ("https://HOST.test.:443?x=1#part", MediaUrl("https", "host.test", "/?x=1")),
        ("http://1.1.1.1:80/a@b", MediaUrl("http", "1.1.1.1", "/a@b")),
        ("https://[2606:4700::1111]/", MediaUrl("https", "2606:4700::1111", "/")),
    ],
)
def test_url(text: str, url: MediaUrl) -> None:
    """Names and plain addresses, with the scheme's own port at most."""
    assert parse_url(text, BOTH) == url


@pytest.mark.parametrize(
    "text",
    [
        *("https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://0177.0.0.1/", "https://127.1/"),
        *(
            "https://017700000001/",
            "https://127.0.0.1../",
            "https://1.2.3.4.5/",
            "https://a.0x/",
            "https://[fe80::1%25eth0]/",
        ),
        *("https://good.test@127.0.0.1/", "https://user:word@good.test/", "https://@good.test/"),
        *("https://good.test\\@127.0.0.1/", "https://good.test%2f@127.0.0.1/", "https://good.test%00.evil.test/"),
        *("https://good.test:8080/", "https://good.test:0/", "https://good.test:99999/", "http://good.test:443/"),
        *(
            "https:///a",
            "https://",
            "https:good.test",
            "//good.test/",
            "good.test",
            "",
            "https://[::1",
            "https://[1.1.1.1]/",
        ),
        *("file:///etc/passwd", "ftp://good.test/", "gopher://good.test/", "data:image/png;base64,AAAA"),
        *(
            "https://good.test/\r\nHost: other",
            "https://good.test/a b",
            "https://g\u043eod.test/",
            "https://good.test/\x7f",
        ),
        *(
            "https://\uff11\uff12\uff17.0.0.1/",
            "https://-good.test/",
            "https://a..test/",
            "https://good.test/" + "a" * 8192,
        ),
    ],
)
def test_refused(text: str) -> None:
    """What parsers disagree about is refused: numbers as hosts, users, backslashes, foreign ports and characters."""
    with pytest.raises(InvalidRequestError):
        parse_url(text, BOTH)


def test_scheme() -> None:
    """A scheme that is not allowed is refused."""
    with pytest.raises(InvalidRequestError, match="https"):
        parse_url("http://good.test/", frozenset({"https"}))


def test_redirect_is_relative() -> None:
    """A redirect's location is read from where it was answered, brackets of IPv6 included."""
    assert MediaUrl("http", "2606:4700::1", "/a/b?x").joined("c?y") == "http://[2606:4700::1]/a/c?y"
    assert MediaUrl("https", "good.test", "/a").joined("//other.test/b") == "https://other.test/b"
