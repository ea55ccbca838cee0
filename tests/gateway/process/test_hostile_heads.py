"""Heads of requests that two servers could read differently, and addresses that lead elsewhere."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.gateway.hostile_stage import CHAT, Stage, request, stage
from tests.gateway.targets.on_socket import FakeOpenAI

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMUGGLED = b'{"model":"model","messages":[{"role":"user","content":"smuggled"}]}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("gateway")) as here:
        yield here


@pytest_asyncio.fixture(loop_scope="module")
async def here(module_stage: Stage) -> AsyncIterator[Stage]:
    """As new; and each story leaves a gateway behind that answers."""
    module_stage.reset()
    yield module_stage
    await module_stage.still_answers()


CONFLICTS = {
    "length and chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 90",
    "two lengths in one": b"Content-Length: 4, 90",
    "a signed length": b"Content-Length: +4",
    "a negative length": b"Content-Length: -4",
    "a hexadecimal length": b"Content-Length: 0x4",
    "no number": b"Content-Length: four",
    "too large a number": b"Content-Length: 99999999999999999999999",
    "unknown encoding": b"Transfer-Encoding: xchunked",
    "chunked twice": b"Transfer-Encoding: chunked, chunked",
    "chunked is not last": b"Transfer-Encoding: chunked, identity",
    "gzip in transfer": b"Transfer-Encoding: gzip",
    "a space before the colon": b"Transfer-Encoding : chunked",
    "a folded header": b"Transfer-Encoding:\r\n chunked",
    "a tab": b"Transfer-Encoding:\tchunked\r\nContent-Length: 4",
    "a bare CR": b"Content-Length: 4\rTransfer-Encoding: chunked",
    "a zero byte": b"Content-Length: 4\r\nX: a\0b",
    "a header without a name": b": x\r\nContent-Length: 4",
    "a header without a colon": b"Transfer-Encoding\r\nContent-Length: 4",
}


@pytest.mark.parametrize("lines", CONFLICTS.values(), ids=CONFLICTS)
async def test_where_does_the_body_end(here: Stage, lines: bytes) -> None:
    """A head that two servers may read differently is refused, so no second request hides in the body."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + here.key.encode()
    hidden = request(SMUGGLED, key=here.key)
    answer = await here.call(head + b"\r\n" + lines + b"\r\n\r\n" + b"0\r\n\r\n" + hidden)

    assert answer.statuses in ([400], [431], [501], [])
    assert not [received for received in here.target.received if b"smuggled" in received.body]


CHUNKS = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "a negative size": b"-1\r\nabc\r\n0\r\n\r\n",
    "too large a size": b"fffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a wrong size": b"2\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
async def test_bad_chunks(here: Stage, chunks: bytes) -> None:
    """They are no body."""
    head = request(key=here.key, method="POST", transfer_encoding="chunked")
    answer = await here.call(head + chunks)

    assert answer.statuses in ([400], [])
    assert not here.target.received


HEADS = {
    "another protocol": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 405, 505)),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + 32 * b"\0", (400,)),
    "no protocol": (b"GET /v1/models\r\n\r\n", (400, 401)),
    "an old protocol": (b"GET /v1/models HTTP/1.0\r\n\r\n", (401,)),
    "a future protocol": (b"GET /v1/models HTTP/9.9\r\n\r\n", (400, 401, 505)),
    "an unknown method": (b"BREW /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", (400, 401, 405)),
    "TRACE": (b"TRACE /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", (400, 401, 404, 405)),
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", (400, 401, 404, 405)),
    "OPTIONS of all": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", (200, 400, 401, 404, 405)),
    "a proxy's address": (b"GET http://a.com/v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", (400, 401)),
    "spaces in the address": (b"GET /v1/models x HTTP/1.1\r\nHost: a\r\n\r\n", (400,)),
    "many headers": (b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + 10_000 * b"X-A: 0123456789\r\n" + b"\r\n", (400, 431)),
    "one huge header": (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-A: " + 200_000 * b"x" + b"\r\n\r\n", (400, 431)),
    "a huge address": (b"GET /v1/" + 200_000 * b"x" + b" HTTP/1.1\r\nHost: a\r\n\r\n", (400, 414, 431)),
}  # fmt: skip


@pytest.mark.parametrize(("head", "statuses"), HEADS.values(), ids=HEADS)
async def test_head(here: Stage, head: bytes, statuses: tuple[int, ...]) -> None:
    answer = await here.call(head)

    assert len(answer.statuses) <= 1
    assert set(answer.statuses) <= set(statuses)
    assert not here.target.received


async def test_two_hosts(here: Stage) -> None:
    """Whose request it is could be read in two ways, so it is refused."""
    raw = here.chat().replace(b"host: 127.0.0.1", b"host: 127.0.0.1\r\nhost: example.com")

    assert (await here.call(raw)).statuses == [400]
    assert not here.target.received


async def test_upgrades(here: Stage) -> None:
    """There is no other protocol here; the request is answered, or refused, as it is."""
    for protocol in ("websocket", "h2c"):
        raw = request(path="/v1/models", upgrade=protocol, sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==")
        answer = await here.call(raw.replace(b"connection: close", b"connection: upgrade, close"))
        assert answer.statuses in ([400], [401], [403], [404], [426])


async def test_headers_that_are_not_forwarded(here: Stage) -> None:
    """A target gets neither secrets nor addresses, and no header that names another target."""
    headers = {
        "cookie": "session=1", "x_forwarded_for": "10.0.0.1", "forwarded": "for=10.0.0.1", "x_real_ip": "10.0.0.1",
        "openai_organization": "org-evil", "x_custom_host": "http://a.com", "x_portkey_custom_host": "a.com",
        "te": "trailers", "proxy_authorization": "Basic eDp5", "user_agent": "spy", "referer": "http://example.com",
        "accept_encoding": "gzip", "idempotency_key": "one", "openai_beta": "two",
    }  # fmt: skip
    assert (await here.call(request(CHAT, key=here.key, **headers))).statuses == [200]

    (received,) = here.target.received
    names = {name.lower() for name in received.headers}
    assert names <= {
        "host", "authorization", "content-type", "content-length", "accept", "accept-encoding", "user-agent",
        "idempotency-key", "openai-beta", "traceparent", "tracestate", "x-request-id",
    }  # fmt: skip
    assert received.headers["accept-encoding"] == "identity"
    assert "spy" not in received.headers["user-agent"]
    assert "idempotency-key" in names


async def test_headers_that_a_client_takes_back(here: Stage) -> None:
    """What `Connection` names is for the gateway only."""
    raw = request(CHAT, key=here.key, openai_beta="two")
    raw = raw.replace(b"connection: close", b"connection: close, OpenAI-Beta, content-length")
    assert (await here.call(raw)).statuses == [200]

    assert "openai-beta" not in here.target.received[0].headers


TARGETS_IN_THE_BODY = ["base_url", "api_base", "api_key", "url", "target", "targets", "custom_llm_provider", "host"]


async def test_targets_in_the_body(here: Stage) -> None:
    """A body cannot say where it is sent: it goes on, and the target may make of it what it likes."""
    async with FakeOpenAI() as evil:
        body = {**CHAT, **dict.fromkeys(TARGETS_IN_THE_BODY, evil.url)}
        assert (await here.call(request(body, key=here.key))).statuses == [200]

        assert (len(here.target.received), evil.received) == (1, [])


# Addresses

TRICKS = [
    "/v1/../v1/models", "/v1/./models", "/v1/%2e%2e/models", "/v1/..%2fmodels", "/%2e%2e/%2e%2e/etc/passwd",
    "/v1/chat/completions/../../../internal", "/v1/files/../../internal", "/v1/files/%2e%2e/%2e%2e/internal",
    "/v1/files/..%5c..%5cinternal", "/v1/files/..;/internal", "/v1\\..\\internal", "//v1/models", "/v1//models",
    "/v1/files//internal", "///example.com/v1/models", "/v1/@example.com/", "/v1/files%00", "/v1/files%0d%0aX-Evil:1",
    "/v1/files%23internal", "/v1/files%3finternal", "/v1/files%2finternal", "/v1/files#internal", "/v1/%66iles",
    "/v1/files;x=1", "/v1/fil\u00e9s", "/v1/files%ff", "/v1/files%", "/v1/files%zz", "/V1/models", "/v1/Models",
    "/v1/v1/models", "/v1/models/%2e%2e/files", "/v1/models/../files", "/openapi.json/../v1/files",
    "/healthz/../v1/files", "/metrics/", "/v1/metrics", "/v1/models/%0ax", "/v1/files/%0a", "/%0a", "/v1/", "/v1", "",
]  # fmt: skip


@pytest.mark.parametrize("path", TRICKS)
async def test_address(here: Stage, path: str) -> None:
    """Without a key it opens nothing; with one, the target is asked for nothing but plain paths below its own."""
    for secret in ("", here.limited_key, here.key):
        answer = await here.call(request(path=path, key=secret))
        assert len(answer.statuses) <= 1
        assert set(answer.statuses) <= ({400, 401, 404} if not secret else {200, 400, 404, 405})
        if answer.statuses and answer.statuses[0] >= 400:
            assert answer.code in ("invalid_api_key", "unknown_url", "model_not_found", "method_not_allowed", None)
        if secret != here.key:
            assert not here.target.received

    for received in here.target.received:
        assert re.fullmatch(r"/v1(/[\w.:@~+-]+)+", received.path)
        assert ".." not in received.path
        assert "x-evil" not in received.headers


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/models/model", "/healthz", "/metrics"])
async def test_methods(here: Stage, path: str) -> None:
    """Those that a route does not have are refused, not looked for elsewhere."""
    for method in METHODS:
        body = CHAT if method in ("POST", "PUT", "PATCH") else None
        (status,) = (await here.call(request(body, path=path, method=method, key=here.key))).statuses
        assert status in (200, 400, 404, 405), method
