"""Headers, paths and bodies, within limits."""

import asyncio
from collections.abc import Iterable

import pytest
from starlette.types import Message

from local_gateway.edge.request import ClientLeftError, api_method, api_path, forwarded_headers, header, read_body
from local_gateway.errors import (
    InvalidRequestError,
    MethodNotAllowedError,
    PayloadTooLargeError,
    RequestError,
    RequestTimeoutError,
    RouteNotFoundError,
    UnsupportedMediaError,
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", "/chat/completions"),
        ("/chat/completions", "/chat/completions"),
        ("/v1/chat/completions/", "/chat/completions"),
        ("/v1/files/file-1/content", "/files/file-1/content"),
        ("/v1/v1/chat", "/v1/chat"),
        ("/v1x/chat", "/v1x/chat"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    """With or without /v1, with or without a slash at the end."""
    assert api_path({"path": path}) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "/v1/",
        "/v1/../admin",
        "/v1/./x",
        "/v1//x",
        "/x/..",
        "/a b",
        "/a\\b",
        "/a?b",
        "/a%2e",
        "/ä",
        "/\0",
    ],
)
def test_paths_that_lead_elsewhere(path: str) -> None:
    """Nothing that could be read as another path goes to a target."""
    with pytest.raises(RouteNotFoundError):
        api_path({"path": path})


def test_methods() -> None:
    """Those of OpenAI's API; requests to a model are posted."""
    assert api_method({"method": "DELETE"}, "/files/1") == "DELETE"
    for method, path in (("TRACE", "/files"), ("GET", "/chat/completions")):
        with pytest.raises(MethodNotAllowedError):
            api_method({"method": method}, path)


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
        (Client([]), [(b"content-encoding", b"gzip")], UnsupportedMediaError),
        (Client([b"1"], is_endless=True), [], RequestTimeoutError),
        (Client([]), [(b"content-length", b"1"), (b"content-length", b"2")], InvalidRequestError),
    ],
    ids=["said-too-large", "too-large", "too-large-in-parts", "compressed", "never-ending", "two-lengths"],
)
async def test_bodies_that_are_refused(
    client: Client, headers: list[tuple[bytes, bytes]], error: type[RequestError]
) -> None:
    """Before memory is spent on them."""
    with pytest.raises(error):
        await read(client, headers, seconds=0.01)
