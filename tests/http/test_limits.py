"""What a client may send unasked, and how long it may take: each limit, and what lies just within it."""

import pytest

from handler.http.limits import (
    LINGER_SECONDS,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_URL_BYTES,
    REQUEST_SECONDS,
    WRITE_SECONDS,
)
from tests.http.connection import Connection

GET = b"GET /ping HTTP/1.1\r\nhost: a\r\n"
CHUNKED = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
POST = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n"
PIECE = 60_000


async def test_a_request() -> None:
    """Within all limits nothing changes."""
    client = Connection()
    await client.send(GET + b"x-key: value\r\n\r\n")

    assert client.statuses == [200]
    assert (b"x-key", b"value") in client.scopes[0]["headers"]
    assert not client.is_ended


@pytest.mark.parametrize(
    "parts",
    [
        [GET, *[b"x-aaaaaa: b\r\n" * 5000] * 3],
        [GET + b"x: ", *[b"a" * PIECE] * 3],
        [GET, *[b"a" * PIECE] * 3],
        [b"\r\n" * PIECE] * 3,
        [CHUNKED, b"0\r\n", *[b"x-aaaaaa: b\r\n" * 5000] * 3],
        [CHUNKED, b"0\r\nx: ", *[b"a" * PIECE] * 3],
        [CHUNKED, b"5;", *[b"a" * PIECE] * 3],
    ],
    ids=["headers", "one value", "one name", "empty lines", "trailers", "one trailer", "chunk extension"],
)
async def test_bytes_without_end(parts: list[bytes]) -> None:
    """Lines or one line, in the head or behind the body: refused at the same limit, and nothing is read after it."""
    client = Connection()
    await client.send(*parts)
    held = client.protocol._num_raw_bytes
    await client.send(b"x" * PIECE)

    assert client.statuses in ([431], [400])
    assert client.transport.has_eof
    assert held <= MAX_HEAD_BYTES + 2 * PIECE
    assert client.protocol._num_raw_bytes == held


async def test_many_headers() -> None:
    """Small ones count too."""
    client, other = Connection(), Connection()
    await client.send(GET + b"a: b\r\n" * MAX_HEADERS + b"\r\n")
    await other.send(GET + b"a: b\r\n" * (MAX_HEADERS - 1) + b"\r\n")

    assert client.statuses == [431]
    assert not client.scopes
    assert other.statuses == [200]


async def test_long_url() -> None:
    """It has a limit of its own, whether or not its head ever ends."""
    client, other = Connection(), Connection()
    await client.send(b"GET /" + b"a" * MAX_URL_BYTES)
    await other.send(b"GET /" + b"a" * (MAX_URL_BYTES - 1) + b" HTTP/1.1\r\nhost: a\r\n\r\n")

    assert client.statuses == [414]
    assert other.statuses == [200]


@pytest.mark.parametrize(
    "parts",
    [
        [CHUNKED + b"2\r\nhi\r\n0\r\nauthorization: Bearer KEY\r\n\r\n"],
        [CHUNKED, b"2\r\nhi\r\n0\r\n", b"authorization: Bearer KEY\r\n", b"\r\n"],
        [CHUNKED + b"2\r\nhi\r\n", b"0\r\nauthor", b"ization: Bearer KEY\r\n\r\n"],
    ],
    ids=["in one write", "later", "cut"],
)
async def test_trailers_are_no_headers(parts: list[bytes]) -> None:
    """What a proxy in front checks and strips is the head."""
    client = Connection()
    await client.send(*parts)

    assert client.bodies == [b"hi"]
    assert [name for name, _ in client.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]


async def test_many_small_chunks() -> None:
    """Their heads are no head: only what delivers nothing is counted."""
    client = Connection()
    await client.send(CHUNKED, *[b"1\r\na\r\n" * 10_000] * 3, b"0\r\n\r\n")

    assert client.statuses == [200]
    assert len(client.bodies[0]) == 30_000


@pytest.mark.parametrize(
    ("parts", "statuses"),
    [([], []), ([GET], [408]), ([POST], [408]), ([POST + b"12"], [408]), ([CHUNKED + b"5\r\na"], [408])],
    ids=["nothing", "half a head", "no body", "half a body", "half a chunk"],
)
async def test_a_client_that_stalls(parts: list[bytes], statuses: list[int]) -> None:
    """It is told so where it has asked something, and the connection ends."""
    client = Connection()
    await client.send(*parts)
    client.clock.advance(REQUEST_SECONDS - 1)
    assert not client.is_ended
    client.clock.advance(2 + LINGER_SECONDS)

    assert client.statuses == statuses
    assert client.transport.is_closed


@pytest.mark.parametrize(
    "part", [b"a", b"1\r\na\r\n", b"x: y\r\n"], ids=["of a value", "chunk by chunk", "header by header"]
)
async def test_a_client_that_trickles(part: bytes) -> None:
    """A byte a second is no progress: it ends within a minute, in a head and in a body."""
    client = Connection()
    await client.send(CHUNKED if part.startswith(b"1") else GET + b"x: ")
    for _ in range(60):
        await client.send(part)
        client.clock.advance(1)

    assert client.transport.is_closed


async def test_a_large_body_on_a_slow_line() -> None:
    """Who keeps to the least speed has as long as that takes."""
    client = Connection()
    await client.send(b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 6000000\r\n\r\n")
    for _ in range(60):
        await client.send(b"a" * 100_000)
        client.clock.advance(1)

    assert client.statuses == [200]


async def test_an_answer_that_takes_long() -> None:
    """The model's time is not the client's, also where an old client sends a line too much or the next request."""
    client = Connection(held=True)
    await client.send(GET + b"\r\n", b"\r\n")
    client.clock.advance(10 * REQUEST_SECONDS)
    await client.send(GET + b"\r\n")
    client.clock.advance(10 * REQUEST_SECONDS)
    await client.answer()
    await client.answer()

    assert client.statuses == [200, 200]


async def test_no_bytes_get_into_an_answer() -> None:
    """A head that is refused while an earlier request is answered just ends the connection."""
    client = Connection(held=True)
    await client.send(GET + b"\r\n", *[GET + b"x: " + b"a" * PIECE] * 3)
    await client.answer()

    assert client.statuses in ([], [200])
    assert client.is_ended


async def test_a_body_that_no_answer_waited_for() -> None:
    """The connection ends, since the rest would be read for nothing."""
    client = Connection(reads_body=False)
    await client.send(POST + b"12")
    client.clock.advance(LINGER_SECONDS)

    assert client.statuses == [200]
    assert client.transport.is_closed


async def test_a_client_that_reads_nothing() -> None:
    """Its connection is dropped, and with it the answer."""
    client = Connection(held=True)
    await client.send(GET + b"\r\n")
    client.protocol.pause_writing()
    client.clock.advance(WRITE_SECONDS - 1)
    client.protocol.resume_writing()
    client.protocol.pause_writing()
    client.clock.advance(WRITE_SECONDS - 1)
    assert not client.transport.is_closed
    client.clock.advance(1)

    assert client.transport.is_closed
