"""HTTP to targets: what is sent, what comes back, and that no target works for a client that left."""

import asyncio
import errno
import gzip
import os
import resource
import socket

import brotli
import pytest

from local_gateway.backends.http import HttpClient
from local_gateway.backends.visible_headers import visible_headers
from local_gateway.config.proxy import ProxyRules
from local_gateway.config.settings import TimeoutSettings
from local_gateway.errors import AnswerBrokenError, GatewayExhaustedError, TargetTimeoutError, TargetUnreachableError
from tests.gateway.targets.on_socket import Exchange, RawScript, always, chunk, head, reply, target_and_client

HI = b"data: Hi\n\n"


class Gate:
    """Lets a script pass step by step."""

    def __init__(self) -> None:
        self._steps: asyncio.Queue[None] = asyncio.Queue()

    def open(self) -> None:
        self._steps.put_nowait(None)

    async def passed(self) -> None:
        await self._steps.get()


# What comes back


async def test_bytes_come_as_they_are_sent() -> None:
    """Nothing is collected: each piece is there before the target sends the next."""
    gate = Gate()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(200, content_type="text/event-stream", transfer_encoding="chunked"))
        for piece in (HI, HI[:5], HI[5:]):
            await gate.passed()
            await exchange.send(chunk(piece))
        await exchange.send(chunk(b""))

    async with target_and_client(script) as (target, http):
        upstream = await http.open("POST", target.url, body=b"{}")
        pieces = []
        for _ in range(3):
            gate.open()
            pieces.append(await anext(upstream))
        rest = [piece async for piece in upstream]
        await upstream.aclose()

    assert (upstream.status, upstream.headers) == (200, {"content-type": "text/event-stream"})
    assert pieces == [HI, HI[:5], HI[5:]]
    assert rest == []


@pytest.mark.parametrize("status", [200, 204, 400, 404, 429, 500, 503])
async def test_every_status_is_given_back(status: int) -> None:
    """With its body; whether it is an error is for others to say."""
    body = b"" if status == 204 else b'{"a": 1}'
    async with target_and_client(always(reply(status, body, retry_after="7"))) as (target, http):
        upstream = await http.open("GET", target.url)
        content = await upstream.read()
        again = [piece async for piece in upstream]
        await upstream.aclose()

    assert (upstream.status, upstream.headers["retry-after"], content) == (status, "7", body)
    assert b"".join(again) == body


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"retry_after": "7"}, "7"),
        ({"retry_after_ms": "1500"}, "1.5"),
        ({"retry_after": "1m30s"}, "90"),
        ({"date": "Sun, 06 Nov 1994 08:49:37 GMT", "retry_after": "Sun, 06 Nov 1994 08:49:47 GMT"}, "10"),
        ({"date": "Sunday, 06-Nov-94 08:49:37 GMT", "retry_after": "Sunday, 06-Nov-94 08:49:47 GMT"}, "10"),
        ({"date": "Sun Nov  6 08:49:37 1994", "retry_after": "Sun Nov  6 08:49:47 1994"}, "10"),
        ({"date": "Sun, 06 Nov 1994 08:49:37 GMT"}, None),
    ],
)
async def test_when_a_target_may_be_asked_again(headers: dict[str, str], told: str | None) -> None:
    """gateway.md B21: in whatever form it says so, by its own clock, which no client sees."""
    async with target_and_client(always(reply(429, b"{}", **headers))) as (target, http):
        upstream = await http.open("GET", target.url)
        await upstream.aclose()

    assert upstream.headers.get("retry-after") == told
    assert not upstream.headers.keys() & {"date", "retry-after-ms"}


@pytest.mark.parametrize(
    "headers",
    [
        b"content-encoding: gzip\r\ncontent-encoding: br",
        b"content-encoding: GZIP , br",
        b"content-encoding: utf-8, gzip, br",
    ],
)
async def test_a_compressed_answer_in_layers(headers: bytes) -> None:
    """gateway.md B15: as one header or as several."""
    body = brotli.compress(gzip.compress(b"hello"))
    raw = b"HTTP/1.1 200 OK\r\n%b\r\ncontent-length: %d\r\n\r\n%b" % (headers, len(body), body)
    async with target_and_client(always(raw)) as (target, http):
        upstream = await http.open("GET", target.url)
        content = await upstream.read()
        await upstream.aclose()

    assert content == b"hello"


def test_headers_for_clients() -> None:
    """A short list; nothing about the connection, the server, or whose account it is."""
    harmless = {
        "content-type": "application/json",
        "retry-after": "3",
        "x-request-id": "req-1",
        "openai-processing-ms": "12",
        "openai-version": "2020-10-01",
        "x-ratelimit-remaining-tokens": "9",
        "content-disposition": "attachment",
    }
    others = {
        "set-cookie": "a=b",
        "server": "x",
        "location": "/",
        "content-encoding": "gzip",
        "content-length": "3",
        "connection": "close",
        "transfer-encoding": "chunked",
        "cache-control": "no-store",
        "openai-organization": "org-1",
        "x-runpod-worker-id": "w1",
    }

    assert visible_headers({name.title(): value for name, value in (harmless | others).items()}) == harmless
    assert "cache-control" in visible_headers({"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})


async def test_a_compressed_answer() -> None:
    """gateway.md B15: a server compresses although it is asked not to; what is cut off is no answer."""
    body = gzip.compress(HI * 1000)
    async with target_and_client(always(reply(200, body, content_encoding="gzip"))) as (target, http):
        upstream = await http.open("GET", target.url)
        whole = await upstream.read()
        fetched = await http.fetch("GET", target.url, timeout=10)
    async with target_and_client(always(reply(200, body[:-9], content_encoding="gzip"))) as (target, http):
        with pytest.raises(AnswerBrokenError, match="cut off"):
            await http.fetch("GET", target.url, timeout=10)

    assert (whole, fetched.body) == (HI * 1000, HI * 1000)
    assert "content-encoding" not in upstream.headers


async def test_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small answer that expands without end is refused at the limit."""
    monkeypatch.setattr("local_gateway.backends.http.MAX_DECODED_BYTES", 100_000)
    bomb = gzip.compress(bytes(10_000_000))
    async with target_and_client(always(reply(200, bomb, content_encoding="gzip"))) as (target, http):
        with pytest.raises(AnswerBrokenError, match="more than 100000 bytes"):
            await http.fetch("GET", target.url, timeout=10)


async def test_a_head_that_can_be_sent_on() -> None:
    """edge.md B5: text beyond ASCII goes on as the bytes that came; what HTTP cannot carry is left out."""
    headers = {
        "Content-Disposition": 'attachment; filename="\u65e5\u672c.wav"',
        "X-Request-Id": "\udce9",  # one byte that is no UTF-8, as aiohttp reads it
        "OpenAI-Version": "a\x01b",
        "Retry-After": "7" * 5000,
        "Openai-Processing-Ms": "a\r\nset-cookie: b",
    } | {f"X-RateLimit-{n}": "1" for n in range(1000)}
    shown = visible_headers(headers)

    assert shown["content-disposition"].encode("latin-1").decode() == headers["Content-Disposition"]
    assert shown["x-request-id"].encode("latin-1") == b"\xe9"
    assert not {"openai-version", "retry-after", "openai-processing-ms"} & shown.keys()
    assert len(shown) == 50


async def test_a_proxy() -> None:
    """gateway.md D1: it is sent the whole address; a target on this machine is reached directly."""
    async with target_and_client(always(reply(200, b"ok"))) as (proxy, _):
        http = HttpClient(TimeoutSettings(), ProxyRules(http=proxy.url))
        try:
            outside = await http.fetch("GET", "http://target.invalid/v1/models", timeout=10)
            await http.fetch("GET", f"{proxy.url}/own", timeout=10)
        finally:
            await http.aclose()

        assert outside.body == b"ok"
        assert [exchange.path for exchange in proxy.exchanges] == ["http://target.invalid/v1/models", "/own"]


async def test_a_proxy_that_is_down() -> None:
    """The message says that it is the proxy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    http = HttpClient(TimeoutSettings(), ProxyRules(http=address))
    with pytest.raises(TargetUnreachableError, match="no connection to the proxy"):
        await http.open("GET", "http://target.invalid/")
    await http.aclose()


# What is sent


async def test_a_request() -> None:
    """As it is, but for characters that no address may have; large ones too; no encoding is accepted."""
    body = b"x" * 3_000_000
    async with target_and_client(always(reply(200, b"ok"))) as (target, http):
        await http.fetch("PATCH", f"{target.url}/a%20b/\u00e9\r\n?q=%2F&r=a b", body=body, timeout=10)
        exchange = target.exchanges[0]

    assert (exchange.method, exchange.path) == ("PATCH", "/a%20b/%C3%A9%0D%0A?q=%2F&r=a%20b")
    assert exchange.body == body
    assert exchange.headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization"} & exchange.headers.keys()


async def test_cookies_are_not_kept() -> None:
    """One client's must not be sent with another's request."""
    async with target_and_client(always(reply(200, b"ok", set_cookie="a=b"))) as (target, http):
        for _ in range(2):
            await http.fetch("GET", target.url, timeout=10)
        second = target.exchanges[1]

    assert "cookie" not in second.headers


# Connections


async def test_a_connection_is_kept_after_a_whole_answer() -> None:
    """Also when the upstream is closed then."""
    async with target_and_client(always(reply(200, b"ok"))) as (target, http):
        for _ in range(3):
            upstream = await http.open("GET", target.url)
            await upstream.read()
            await upstream.aclose()

        assert target.num_connections == 1


async def test_closing_ends_the_work() -> None:
    """The target sees at once that its client is gone."""
    ended = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(200, transfer_encoding="chunked") + chunk(HI))
        await exchange.hung_up()
        ended.set()

    async with target_and_client(script) as (target, http):
        upstream = await http.open("GET", target.url)
        await anext(upstream)
        await upstream.aclose()
        await upstream.aclose()
        await ended.wait()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-"])
async def test_cancelling_ends_the_work(sent: bytes) -> None:
    """Before there is an answer, too."""
    asked, ended = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(sent)
        asked.set()
        await exchange.hung_up()
        ended.set()

    async with target_and_client(script) as (target, http):
        opening = asyncio.create_task(http.open("POST", target.url, body=b"{}"))
        await asked.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await ended.wait()


async def test_cancelling_at_any_moment() -> None:
    """No connection with a request on it stays open."""
    working: set[Exchange] = set()
    idle = asyncio.Condition()

    async def script(exchange: Exchange) -> None:
        working.add(exchange)
        try:
            await exchange.send(head(200, transfer_encoding="chunked") + chunk(HI))
            await exchange.hung_up()
        finally:
            working.remove(exchange)
            async with idle:
                idle.notify()

    async with target_and_client(script) as (target, http):
        for num_steps in range(100):
            opening = asyncio.create_task(http.open("POST", target.url, body=b"{}"))
            for _ in range(num_steps):
                await asyncio.sleep(0)
            if opening.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await opening
            else:
                await opening.result().aclose()
        async with idle:
            await idle.wait_for(lambda: not working)

        assert 0 < len(target.exchanges) < 100


def closing_when_asked_again(*, resets: bool) -> RawScript:
    """Answers one request on each connection. The next finds that it is closed."""

    async def script(exchange: Exchange) -> None:
        if exchange.path == "/first":
            await exchange.send(reply(200, b"first"))
        elif exchange.num_connection == 1:
            exchange.abort() if resets else exchange.close()
        else:
            await exchange.send(reply(200, b"second"))

    return script


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_kept_connection_that_is_closed(method: str, resets: bool) -> None:
    """The request goes out once more on a new one, unnoticed."""
    async with target_and_client(closing_when_asked_again(resets=resets)) as (target, http):
        await http.fetch("GET", f"{target.url}/first", timeout=10)
        upstream = await http.open(method, f"{target.url}/second", body=b"{}")
        content = await upstream.read()
        await upstream.aclose()

        assert content == b"second"
        assert [exchange.path for exchange in target.exchanges] == ["/first", "/second", "/second"]


async def test_a_request_that_must_not_be_repeated() -> None:
    """What reads away is sent once, even where HTTP would allow to repeat it."""
    async with target_and_client(closing_when_asked_again(resets=False)) as (target, http):
        await http.fetch("GET", f"{target.url}/first", timeout=10)
        with pytest.raises(TargetUnreachableError, match="without an answer"):
            await http.fetch("GET", f"{target.url}/second", timeout=10, may_repeat=False)

        assert len(target.exchanges) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_target_that_hangs_up_on_a_new_connection(method: str) -> None:
    """It has seen the request, so whether to repeat it is for others to say."""

    async def script(exchange: Exchange) -> None:
        exchange.close()

    async with target_and_client(script) as (target, http):
        with pytest.raises(TargetUnreachableError, match="closed the connection without an answer"):
            await http.open(method, target.url, body=b"{}")

        assert len(target.exchanges) == 1


# What goes wrong


@pytest.mark.parametrize("framing", [{"transfer_encoding": "chunked"}, {"content_length": "100"}])
async def test_an_answer_that_breaks_off(framing: dict[str, str]) -> None:
    """What came is given out; then it is an error, never an end."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(200, **framing) + (chunk(HI) if "transfer_encoding" in framing else HI))
        exchange.close()

    async with target_and_client(script) as (target, http):
        upstream = await http.open("GET", target.url)
        piece = await anext(upstream)
        with pytest.raises(TargetUnreachableError, match="broke off"):
            await anext(upstream)
        await upstream.aclose()

    assert piece == HI


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EADDRNOTAVAIL], ids=os.strerror)
async def test_own_lack_of_resources(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, memory and ports that this process lacks are told as such, for they say nothing about the target."""

    async def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    async with target_and_client(always(reply(200))) as (target, http):
        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", refuse)
        with pytest.raises(GatewayExhaustedError, match="out of resources"):
            await http.open("GET", target.url)


@pytest.mark.parametrize("begun", [b"", head(200, content_length="5")])
async def test_a_whole_answer_has_its_own_deadline(begun: bytes) -> None:
    """It is for small questions to a target, about its health for example."""
    ended = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(begun)
        await exchange.hung_up()
        ended.set()

    async with target_and_client(script) as (target, http):
        with pytest.raises(TargetTimeoutError):
            await http.fetch("GET", target.url, timeout=0.05)
        await ended.wait()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply(302, b"", location="http://127.0.0.1/elsewhere"), "redirects"),
        (reply(200, b"x", content_encoding="compress"), "is not known"),
        (reply(101, b"x"), "status 101"),
        (reply(600, b"x"), "status 600"),
        (reply(999, b"x"), "status 999"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
    ],
)
async def test_answers_that_cannot_be_passed_on(answer: bytes, message: str) -> None:
    """No redirect is followed: the key would go along."""
    async with target_and_client(always(answer)) as (target, http):
        with pytest.raises(AnswerBrokenError, match=message):
            await http.open("GET", target.url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{port}/secret?key=secret", "Connection refused"),
        ("http://secret.invalid/?key=secret", "its host name is not known"),
        ("http://[secret/", "its address is not valid"),
    ],
)
async def test_a_target_that_cannot_be_reached(url: str, reason: str) -> None:
    """The message tells why, and no address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    http = HttpClient(TimeoutSettings())

    with pytest.raises(TargetUnreachableError) as caught:
        await http.open("GET", url.replace("{port}", str(port)))
    await http.aclose()

    assert str(caught.value) == f"The target could not be reached: {reason}."


async def test_a_target_without_tls() -> None:
    """The message tells that, too."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(400))
        writer.close()

    http = HttpClient(TimeoutSettings())
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TargetUnreachableError, match="no TLS"):
            await http.open("GET", f"https://127.0.0.1:{port}")
        await http.aclose()


async def test_a_name_that_cannot_be_looked_up_without_files_is_our_own_fault() -> None:
    """The resolver says no more than that the name is not known; what this process lacks says nothing of a target."""
    http = HttpClient(TimeoutSettings())
    with pytest.raises(TargetUnreachableError):
        await http.fetch("GET", "http://nothing.invalid/", timeout=10)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(2)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(GatewayExhaustedError, match="out of resources"):
            await http.fetch("GET", "http://nothing.invalid/", timeout=10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await http.aclose()
