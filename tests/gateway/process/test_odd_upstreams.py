"""Targets whose heads, framing and compression are odd, on a real gateway: each answer is read, or refused in words."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import brotli
import pytest
import pytest_asyncio

from tests.gateway.gateway_process import GatewayProcess, running
from tests.gateway.wire_samples import events_of, text_events

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE = {"role": "assistant", "content": "Paris."}
WHOLE = json.dumps({"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}]}).encode()
STREAM = b"".join(events_of(text_events("Par", "is.")))
HALF = STREAM[: STREAM.index(b"is.")]
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
ERROR = b'{"error":{"message":"so it is"}}'


def head(status: bytes = b"200 OK", *lines: bytes, body: bytes = WHOLE, kind: bytes = b"application/json") -> bytes:
    own = (b"content-type: " + kind, b"content-length: %d" % len(body), b"connection: close")
    return b"\r\n".join([b"HTTP/1.1 " + status, *own, *lines, b"", body])


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def deflated(*pieces: bytes, wbits: int = 31, is_whole: bool = True) -> list[bytes]:
    """Each piece flushed, as servers compress streams."""
    packer = zlib.compressobj(wbits=wbits)
    packed = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return [*packed, packer.flush()] if is_whole else packed


# What the target sends, and the status that a client sees.
HEADS: dict[str, tuple[bytes, int]] = {
    "B5 early hints": (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + head(), 200),
    "B5 processing": (b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + head(), 200),
    "B5 not modified": (b"HTTP/1.1 304 Not Modified\r\n\r\n", 502),
    "B5 zero": (b"HTTP/1.1 000 Zero\r\ncontent-length: 2\r\n\r\n{}", 502),
    "B5 no content": (head(b"204 No Content", body=b""), 502),
    "B5 599": (head(b"599 Odd", body=ERROR), 599),
    "B5 451": (head(b"451 Legal", body=ERROR), 451),
    "B5 no reason": (head(b"200"), 200),
    "B5 reason beyond ASCII": (head("200 \u00c9t\u00e9".encode()), 200),
    "B5 Latin-1": (head(b"200 OK", b"x-request-id: caf\xe9"), 200),
    "B5 no UTF-8": (head(b"200 OK", b"x-request-id: \xff\xfe\x80"), 200),
    "B5 a control character": (head(b"200 OK", b"x-request-id: a\x01b"), 200),
    "B5 a folded line": (head(b"200 OK", b"x-request-id: a\r\n b"), 200),
    "B5 a long value": (head(b"200 OK", b"x-request-id: " + b"a" * 7000), 200),
    "B5 many limits": (head(b"200 OK", *(b"x-ratelimit-%d: 1" % number for number in range(99))), 200),
    "B5 GBK in a name": (head(b"200 OK", "content-disposition: attachment; filename=\u65e5.wav".encode("gbk")), 200),
    "B5 an encoded name": (head(b"200 OK", b"content-disposition: attachment; filename*=UTF-8''%E6%97%A5"), 200),
    "B5 a type beyond ASCII": (head(kind="application/json; charset=\u00e9".encode()), 200),
    "B5 an endless reason": (head(b"200 " + b"a" * 10_000), 502),
    "B5 an endless value": (head(b"200 OK", b"x-request-id: " + b"a" * 100_000), 502),
    "B5 another protocol": (b"ICY 200 OK\r\n\r\n{}", 502),
    "B9 a length that is too large": (b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n" + WHOLE, 502),
    "B9 a negative length": (b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", 502),
    "B9 a bad chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 502),
    "B9 no last chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(WHOLE, end=b""), 502),
    "B9 trailers": (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        + chunked(WHOLE, end=b"0\r\nset-cookie: a\r\nx-request-id: \xff\r\n\r\n"),
        200,
    ),
    "B15 gzip": (head(b"200 OK", b"content-encoding: X-GZIP", body=gzip.compress(WHOLE)), 200),
    "B15 members": (
        head(b"200 OK", b"content-encoding: gzip", body=gzip.compress(WHOLE[:9]) + gzip.compress(WHOLE[9:])), 200,
    ),
    "B15 raw deflate": (head(b"200 OK", b"content-encoding: deflate", body=zlib.compress(WHOLE)[2:-4]), 200),
    "B15 layers": (
        head(b"200 OK", b"content-encoding: gzip", b"content-encoding: br", body=brotli.compress(gzip.compress(WHOLE))),
        200,
    ),
    "B15 only called so": (head(b"200 OK", b"content-encoding: gzip"), 200),
    "B15 no compression": (head(b"200 OK", b"content-encoding: utf-8"), 200),
    "B15 cut off": (head(b"200 OK", b"content-encoding: gzip", body=gzip.compress(WHOLE)[:-10]), 502),
    "B15 an error": (head(b"400 Bad", b"content-encoding: gzip", body=gzip.compress(ERROR)), 400),
    "B3 a page": (head(kind=b"text/html", body=b"<html><title>Login</title></html>"), 502),
    "B3 nothing": (head(body=b""), 502),
    "B3 null": (head(body=b"null"), 502),
    "B3 a number": (head(body=b"1"), 502),
    "B3 a name as the code": (head(body=b'{"error":{"message":"m","code":"rate_limit_exceeded"}}'), 429),
    "B3 beside empty choices": (head(body=b'{"choices":[],"error":{"message":"m","code":503}}'), 503),
    "B3 JSON of JSON": (head(body=json.dumps(json.dumps({"error": {"message": "m", "code": 404}})).encode()), 404),
    "B4 another case": (head(body=b'{"Error":{"Message":"m","Code":"ThrottlingException"}}'), 429),
    "B4 only a reason": (
        head(body=b'{"choices":[{"index":0,"message":{"content":""},"finish_reason":"error"}]}'), 500,
    ),
    "B4 in one of two": (
        head(body=b'{"choices":[{"index":0,"message":{"content":"a"}},{"index":1,"error":{"message":"m","code":503}}]}'),
        503,
    ),
}  # fmt: skip

# What the target sends, in these writes, and whether the stream is complete.
STREAMS: dict[str, tuple[list[bytes], bool]] = {
    "B11 byte by byte": ([EVENTS + b"\r\n", *(STREAM[at : at + 1] for at in range(len(STREAM)))], True),
    "B11 no type": ([b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", STREAM], True),
    "B11 HTTP/1.0": ([b"HTTP/1.0 200 OK\r\n\r\n", STREAM], True),
    "B15 gzip": ([EVENTS + b"content-encoding: gzip\r\n\r\n", *deflated(STREAM[:99], STREAM[99:])], True),
    "B15 deflate": (
        [EVENTS + b"content-encoding: deflate\r\n\r\n", *deflated(STREAM[:99], STREAM[99:], wbits=15)],
        True,
    ),
    "B15 gzip that is cut off": ([EVENTS + b"content-encoding: gzip\r\n\r\n", *deflated(HALF, is_whole=False)], False),
    "B7 the connection's end": ([EVENTS + b"\r\n", HALF], False),
    "B7 an exact length": ([EVENTS + b"content-length: %d\r\n\r\n" % len(HALF), HALF], False),
    "B7 a last chunk": ([EVENTS + b"transfer-encoding: chunked\r\n\r\n", chunked(HALF)], False),
    "B9 no last chunk": ([EVENTS + b"transfer-encoding: chunked\r\n\r\n", chunked(HALF, end=b"")], False),
    "B9 half a chunk": ([EVENTS + b"transfer-encoding: chunked\r\n\r\n", chunked(HALF, end=b"ff\r\nda")], False),
    "B9 a length that is too large": ([EVENTS + b"content-length: 9999\r\n\r\n", HALF], False),
    "B7 a page": ([EVENTS + b"\r\n", HALF, b"\n\n<html><body>504 Gateway Time-out</body></html>"], False),
    "B7 an error without an event": ([EVENTS + b"\r\n", HALF, b"\n\n" + ERROR], False),
    "B7 a named error": ([EVENTS + b"\r\n", HALF, b"\n\nevent: error\ndata: broken\n\n"], False),
}


class Stage(NamedTuple):
    gateway: GatewayProcess
    session: aiohttp.ClientSession

    async def ask(self, model: str, *, stream: bool = False) -> tuple[int, bytes]:
        body = {"model": model, "messages": [], "stream": stream}
        async with asyncio.timeout(20), self.session.post(f"{self.gateway.api}/chat/completions", json=body) as answer:
            return answer.status, await answer.read()


async def target(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends what the model's name stands for, whatever it is asked."""
    try:
        request = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in request.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        name = json.loads(await reader.readexactly(int(length.partition(b":")[2])))["model"]
        for piece in [HEADS[name][0]] if name in HEADS else STREAMS[name.removeprefix("stream ")][0]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    server = await asyncio.start_server(target, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    models = {"*": {"targets": [{"type": "openai", "name": "odd", "base_url": url, "breaker": {"failures": 1}}]}}
    config = {"models": models, "retry": {"max_attempts": 1}}
    async with server, running(folder, config) as gateway, aiohttp.ClientSession() as session:
        yield Stage(gateway, session)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("gateway")) as here:
        yield here
        assert "Traceback" not in here.gateway.log
        assert "unexpected error" not in here.gateway.log


@pytest.mark.parametrize("name", HEADS)
async def test_answer(here: Stage, name: str) -> None:
    """A status and a body that every client can read; of one model's failures the others hear nothing (B5 of the
    gateway's reports: each name is a model of one target, whose breaker opens with one failure)."""
    status, body = await here.ask(name)

    assert status == HEADS[name][1]
    read = json.loads(body)
    if status < 400:
        assert read["choices"][0]["message"]["content"] == "Paris."
    else:
        assert read["error"]["message"]


@pytest.mark.parametrize("name", STREAMS)
async def test_stream(here: Stage, name: str) -> None:
    """To its end; or with an error event instead of one."""
    status, body = await here.ask(f"stream {name}", stream=True)

    assert (status, body.endswith(b"data: [DONE]\n\n")) == (200, True)
    assert (b'"error"' not in body) is STREAMS[name][1]
    assert b"Par" in body
