"""Headers, paths and bodies, within limits."""

import asyncio
import gzip
import zlib
from collections.abc import Callable, Iterable

import brotli
import pytest
from backports import zstd
from starlette.types import Message

from local_gateway.edge.request import (
    ClientLeftError,
    decode,
    end_user_of,
    forwarded_headers,
    header,
    keys_own,
    read_body,
    refuse_websocket,
)
from local_gateway.errors import (
    InvalidRequestError,
    PayloadTooLargeError,
    RequestError,
    RequestTimeoutError,
    UnsupportedMediaError,
)


def test_header_twice() -> None:
    """Two values of one header are two opinions of what was sent."""
    assert header([(b"a", b" 1 "), (b"b", b"2")], b"a") == "1"
    assert header([], b"a") == ""
    with pytest.raises(InvalidRequestError):
        header([(b"host", b"a"), (b"host", b"b")], b"host")


def test_what_targets_see() -> None:
    """No key, no cookie, no address of the client; nothing that is about the connection."""
    hidden = [
        b"authorization",
        b"api-key",
        b"x-api-key",
        b"cookie",
        b"x-forwarded-for",
        b"host",
        b"openai-organization",
    ]
    headers = [(name, b"secret") for name in hidden]
    headers += [(b"openai-beta", b"assistants=v2"), (b"traceparent", b"00-1-1-01"), (b"connection", b"TraceParent, x")]

    assert forwarded_headers(headers) == {"openai-beta": "assistants=v2"}


class Client:
    """Sends parts of a body, then waits for ever or, at None, hangs up."""

    def __init__(self, parts: Iterable[bytes | None], *, is_endless: bool = False) -> None:
        self._parts = list(parts)
        self._is_endless = is_endless

    async def __call__(self) -> Message:
        if not self._parts:
            await asyncio.Event().wait()
        part = self._parts.pop(0)
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(self._parts) or self._is_endless}


async def read(client: Client, headers: Iterable[tuple[bytes, bytes]] = (), seconds: float = 60) -> bytes:
    return await read_body(list(headers), client, max_bytes=10, timeout=seconds)


async def test_body_in_parts() -> None:
    """It is put together."""
    assert await read(Client([b"abc", b"", b"def"])) == b"abcdef"
    assert await read(Client([b""])) == b""


async def test_client_that_leaves() -> None:
    """Half a body is no request."""
    with pytest.raises(ClientLeftError):
        await read(Client([b"abc", None], is_endless=True))


@pytest.mark.parametrize(
    ("client", "headers", "error"),
    [
        (Client([]), [(b"content-length", b"11")], PayloadTooLargeError),
        (Client([b"12345678901"]), [], PayloadTooLargeError),
        (Client([b"1234567", b"1234567"], is_endless=True), [], PayloadTooLargeError),
        (Client([b"x"]), [(b"content-encoding", b"lzma")], UnsupportedMediaError),
        (Client([b"x"]), [(b"content-encoding", b"gzip")], InvalidRequestError),
        (Client([b"1"], is_endless=True), [], RequestTimeoutError),
        (Client([]), [(b"content-length", b"1"), (b"content-length", b"2")], InvalidRequestError),
    ],
    ids=[
        "said-too-large",
        "too-large",
        "too-large-in-parts",
        "unknown-encoding",
        "not-gzip",
        "never-ending",
        "two-lengths",
    ],
)
async def test_bodies_that_are_refused(
    client: Client, headers: list[tuple[bytes, bytes]], error: type[RequestError]
) -> None:
    """Before memory is spent on them."""
    with pytest.raises(error):
        await read(client, headers, seconds=0.01)


BOMBS = {
    "gzip": gzip.compress(bytes(10_000_000)),
    "deflate": zlib.compress(bytes(10_000_000)),
    "br": brotli.compress(bytes(10_000_000), quality=5),
    "zstd": zstd.compress(bytes(10_000_000)),
}


@pytest.mark.parametrize("encoding", BOMBS)
def test_bombs(encoding: str) -> None:
    """A body that is large only when it is decompressed is too large all the same."""
    assert len(decode(BOMBS[encoding], encoding, 10_000_000)) == 10_000_000
    for max_bytes in (0, 10, 9_999_999):
        with pytest.raises(PayloadTooLargeError):
            decode(BOMBS[encoding], encoding, max_bytes)


@pytest.mark.parametrize("encoding", BOMBS)
@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-4], lambda raw: b"x" + raw, lambda raw: raw + b"x", lambda raw: b""]
)
def test_broken_encodings(encoding: str, change: Callable[[bytes], bytes]) -> None:
    """Half a body is no body, and what follows one is not ignored."""
    with pytest.raises(InvalidRequestError):
        decode(change(BOMBS[encoding]), encoding, 10_000_000)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip, br", "compress", "gzip;q=1", "\0"])
def test_other_encodings(encoding: str) -> None:
    """One at a time, of those that clients use."""
    with pytest.raises(UnsupportedMediaError):
        decode(BOMBS["gzip"], encoding, 10_000_000)


async def test_compressed_body() -> None:
    """It is read as what it is."""
    raw = b'{"a":1}'
    for encoding, packed in (("gzip", gzip.compress(raw)), ("Zstd", zstd.compress(raw)), ("identity", raw), ("", raw)):
        client = Client([packed[:5], packed[5:]])
        headers = [(b"content-encoding", encoding.encode())]
        assert await read_body(headers, client, max_bytes=100, timeout=60) == raw


def test_idempotency_keys_are_a_keys_own() -> None:
    """Two keys with the same value do not meet at the target; the same key does, each time."""
    mine, yours, other = keys_own("a", "me"), keys_own("a", "you"), keys_own("b", "me")

    assert len({mine, yours, other, keys_own("", "mea"), keys_own("a", "")}) == 5
    assert mine == keys_own("a", "me")


@pytest.mark.parametrize(
    ("headers", "user"),
    [
        ([], ""),
        ([(b"x-openwebui-user-email", b"ann@example.com"), (b"x-openwebui-user-id", b"1")], "ann@example.com"),
        ([(b"x-openwebui-user-id", b"1"), (b"x-openwebui-user-name", b"Ann")], "1"),
        ([(b"x-openwebui-user-name", b"J%C3%BCrgen%20M")], "J\u00fcrgen M"),
        ([(b"x-openwebui-user-name", b"x" * 1000)], "x" * 200),
        ([(b"x-openwebui-user-name", b"\xff")], "\ufffd"),
    ],
)
def test_end_users(headers: list[tuple[bytes, bytes]], user: str) -> None:
    """The person behind a chat application's key."""
    assert end_user_of(headers) == user


@pytest.mark.parametrize("value", [b"websocket", b"WebSocket", b" websocket "])
def test_websockets(value: bytes) -> None:
    """They are refused in words; other upgrades are ignored."""
    with pytest.raises(InvalidRequestError, match="Websockets are not served here"):
        refuse_websocket([(b"upgrade", value)])
    refuse_websocket([(b"upgrade", b"h2c"), (b"x", value)])
