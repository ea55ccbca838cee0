"""What a client's URL can make the worker fetch: servers are played over pairs of sockets, names by a table."""

import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event, Thread

import pytest

from handler.errors import InvalidRequestError
from handler.media.fetch import FetchLimits, fetch

PUBLIC, OTHER = "1.1.1.1", "2606:4700::1111"
LIMITS = FetchLimits(schemes=frozenset({"http"}), max_bytes=100)
NAMES = {
    "good.test": [PUBLIC],
    "other.test": [OTHER],
    "inside.test": ["10.0.0.1"],
    "both.test": [PUBLIC, "127.0.0.1"],
    "mapped.test": ["::ffff:169.254.169.254"],
    "empty.test": [],
    "127.0.0.1": ["127.0.0.1"],
    "169.254.169.254": ["169.254.169.254"],
    "::1": ["::1"],
}


def answer(body: bytes = b"picture", status: int = 200, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return answer(b"", status, Location=location, Content_Length="0")


@dataclass
class Internet:
    """Resolves by a table and answers each connection with the next answer. An answer that is None stays silent."""

    answers: list[bytes | None]
    names: dict[str, list[str]] = field(default_factory=lambda: dict(NAMES))
    resolved: list[str] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    over: Event = field(default_factory=Event)
    threads: list[Thread] = field(default_factory=list)

    def resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        if host not in self.names:
            raise socket.gaierror
        return self.names[host]

    def connect(self, address: str, port: int, seconds: float) -> socket.socket:
        self.connected.append((address, port))
        ours, theirs = socket.socketpair()
        thread = Thread(target=self._serve, args=(theirs, self.answers.pop(0)))
        thread.start()
        self.threads.append(thread)
        return ours

    def _serve(self, theirs: socket.socket, answer: bytes | None) -> None:
        with closing(theirs):
            self.heads.append(theirs.recv(65536))
            if answer is None:
                theirs.recv(1)  # until the worker gives up
                self.over.set()
            else:
                theirs.sendall(answer)

    def fetch(self, url: str, limits: FetchLimits = LIMITS) -> bytes:
        return fetch(url, limits, resolve=self.resolve, connect=self.connect)


@pytest.fixture
def internet() -> Iterator[Internet]:
    world = Internet([])
    yield world
    for thread in world.threads:
        thread.join()


def test_fetch(internet: Internet) -> None:
    """The body comes from the address that was checked, asked for by the host's name."""
    internet.answers = [answer(Content_Length="7")]

    assert internet.fetch("http://good.test/a?b=1") == b"picture"
    assert internet.connected == [(PUBLIC, 80)]
    assert internet.heads[0].startswith(b"GET /a?b=1 HTTP/1.1\r\nHost: good.test\r\n")


@pytest.mark.parametrize(
    "url",
    [
        *("http://inside.test/", "http://both.test/", "http://mapped.test/", "http://empty.test/", "http://no.test/"),
        *("http://127.0.0.1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/", "http://2130706433/"),
        *("http://good.test@127.0.0.1/", "http://inside.test./", "https://good.test/"),
    ],
)
def test_private(internet: Internet, url: str) -> None:
    """No connection is opened to a private address, nor to a host that has one beside a public one."""
    with pytest.raises(InvalidRequestError):
        internet.fetch(url)

    assert not internet.connected


@pytest.mark.parametrize(
    "location",
    [
        *("http://inside.test/", "http://127.0.0.1/", "//169.254.169.254/", "http://0x7f.1/", "http://both.test/"),
        *("file:///etc/passwd", "https://good.test/", "http://good.test:22/", "http://u@good.test/", "//[x"),
    ],
)
def test_redirect_to_private(internet: Internet, location: str) -> None:
    """Each redirect is checked as the first URL was: host, scheme, port."""
    internet.answers = [redirect(location)]

    with pytest.raises(InvalidRequestError):
        internet.fetch("http://good.test/")
    assert internet.connected == [(PUBLIC, 80)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(internet: Internet, status: int) -> None:
    """A redirect to another public host is followed, to that host's address."""
    internet.answers = [redirect("http://other.test/b", status), answer(Content_Length="7")]

    assert internet.fetch("http://good.test/") == b"picture"
    assert internet.connected == [(PUBLIC, 80), (OTHER, 80)]


def test_rebinding(internet: Internet) -> None:
    """A name that answers privately the second time is refused at its second hop; each hop resolves only once."""
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    internet.resolve = lambda host, port: next(answers)  # type: ignore[method-assign]  # a name that changes
    internet.answers = [redirect("/again")]

    with pytest.raises(InvalidRequestError):
        internet.fetch("http://good.test/")
    assert internet.connected == [(PUBLIC, 80)]
    assert next(answers, None) is None


def test_redirect_circle(internet: Internet) -> None:
    """A circle of redirects ends."""
    internet.answers = [redirect("/") for _ in range(4)]

    with pytest.raises(InvalidRequestError, match="more than 3 times"):
        internet.fetch("http://good.test/")
    assert len(internet.connected) == 4


def test_hosts(internet: Internet) -> None:
    """Where hosts are named, others are refused before they are resolved, after a redirect too."""
    internet.answers = [redirect("http://other.test/")]
    only_good = FetchLimits(schemes=frozenset({"http"}), hosts=frozenset({"good.test"}))

    with pytest.raises(InvalidRequestError, match="not among those"):
        internet.fetch("http://good.test/", only_good)
    assert internet.resolved == ["good.test"]


@pytest.mark.parametrize(
    "response",
    [
        answer(b"", Content_Length="101"),
        answer(b"x" * 101),
        answer(b"65\r\n" + b"x" * 101, Transfer_Encoding="chunked"),
    ],
    ids=["announced", "without a length", "chunked"],
)
def test_too_large(internet: Internet, response: bytes) -> None:
    """A body over the limit is refused, whether or not its length is announced."""
    internet.answers = [response]

    with pytest.raises(InvalidRequestError, match="larger than 100 bytes"):
        internet.fetch("http://good.test/")


@pytest.mark.parametrize(
    "response",
    [
        answer(b"the secret of port 80", 404),
        answer(b"", 302),
        answer(Content_Encoding="gzip"),
        answer(b"part", Content_Length="7"),
        b"SSH-2.0-the secret\r\n",
        b"",
    ],
    ids=["404", "redirect to nowhere", "compressed", "cut", "not HTTP", "silence"],
)
def test_other_answer(internet: Internet, response: bytes) -> None:
    """Other answers are one message, which does not repeat what the server said."""
    internet.answers = [response]

    with pytest.raises(InvalidRequestError) as error:
        internet.fetch("http://good.test/")
    assert str(error.value) == "The URL could not be fetched."


def test_server_hangs(internet: Internet) -> None:
    """A server that says nothing is left when the time is over, though no timeout of the socket ends the wait."""
    internet.answers = [None]

    with pytest.raises(InvalidRequestError, match="could not be fetched"):
        internet.fetch("http://good.test/", FetchLimits(schemes=frozenset({"http"}), seconds=0.05))
    assert internet.over.wait(10)
