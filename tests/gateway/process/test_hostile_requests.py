"""Bodies that no honest client sends. None makes a 500, none reaches a target that should not."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import brotli
import pytest
import pytest_asyncio
from backports import zstd

from tests.gateway.hostile_stage import CHAT, MAX_BODY_BYTES, PATIENCE, Answer, Stage, request, stage

pytestmark = pytest.mark.asyncio(loop_scope="module")

MB = 1_000_000


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


BODIES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "empty object": (b"{}", (400,)),
    "a list": (b"[]", (400,)),
    "a string": (b'"model"', (400,)),
    "null": (b"null", (400,)),
    "cut off": (b'{"model":"mod', (400,)),
    "two objects": (b'{"model":"model"}{"model":"model"}', (400,)),
    "a comment": (b'{"model":"model"} // x', (400,)),
    "NaN": (b'{"model":"model","temperature":NaN}', (400,)),
    "infinity": (b'{"model":"model","temperature":-Infinity}', (400,)),
    "bad UTF-8": (b'{"model":"model","x":"\xff\xfe"}', (400,)),
    "too long UTF-8": (b'{"model":"model","x":"\xc0\xaf"}', (400,)),
    "UTF-16": ('{"model":"model"}'.encode("utf-16"), (400,)),
    "half a character": (b'{"model":"model","x":"\\ud800"}', (200, 400)),
    "half a character as model": (b'{"model":"\\ud800"}', (400, 404)),
    "a mark of the byte order": (b'\xef\xbb\xbf{"model":"model"}', (200, 400)),
    "zero bytes": (b'{"model":"model"}\0\0', (400,)),
    "deep lists": (100_000 * b"[" + 100_000 * b"]", (400,)),
    "deep lists within": (b'{"model":"model","x":' + 100_000 * b"[" + 100_000 * b"]" + b"}", (400,)),
    "deep objects within": (b'{"model":"model","x":' + 50_000 * b'{"a":' + b"1" + 50_000 * b"}" + b"}", (400,)),
    "deep enough": (b'{"model":"model","messages":' + 900 * b"[" + 900 * b"]" + b"}", (200, 400)),
    "a long number": (b'{"model":"model","seed":' + 100_000 * b"9" + b"}", (200, 400)),
    "many keys": (b'{"model":"model"' + b"".join(b',"%d":1' % n for n in range(50_000)) + b"}", (200,)),
    "an endless name": (b'{"model":"' + 500_000 * b"x" + b'"}', (400, 404)),
    "a name with lines": (b'{"model":"model\\r\\nX-Evil: 1"}', (400, 404)),
    "a name with a zero": (b'{"model":"model\\u0000"}', (400, 404)),
    "a name with a path": (b'{"model":"../../model"}', (400, 404)),
    "a form": (b"model=model&prompt=Hi", (400,)),
}


@pytest.mark.parametrize(("body", "statuses"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/responses"])
async def test_body(here: Stage, path: str, body: bytes, statuses: tuple[int, ...]) -> None:
    """Said in one short line, in OpenAI's words."""
    answer = await here.call(request(body, path=path, key=here.key))

    assert len(answer.statuses) == 1
    assert answer.statuses[0] in statuses
    if answer.statuses[0] != 200:
        error = json.loads(answer.body)["error"]
        assert error["message"].isprintable()
        assert len(error["message"]) < 1000
        assert b"X-Evil" not in answer.raw.partition(b"\r\n\r\n")[0]


VALUES: list[Any] = [None, True, 0, -1, 1e308, 10**25, "", "x", "\0", [], [1], {}, {"a": 1}, [[[]]], -0.0]
FIELDS = [
    "model", "stream", "stream_options", "messages", "max_tokens", "max_completion_tokens", "max_output_tokens", "n",
    "temperature", "seed", "user", "metadata", "input", "prompt", "tools", "best_of",
]  # fmt: skip


@pytest.mark.parametrize("model", ["model", "kept"])
@pytest.mark.parametrize("field", FIELDS)
async def test_fields_of_the_wrong_type(here: Stage, field: str, model: str) -> None:
    """The target may refuse them; the gateway does not stumble."""
    for path in ("/v1/chat/completions", "/v1/embeddings"):
        for stream in (True, False):
            for value in VALUES:
                body = {**CHAT, "model": model, "temperature": 0, "stream": stream, field: value}
                (status,) = (await here.call(request(body, path=path, key=here.key))).statuses
                assert status in (200, 400, 404), (path, body)


@pytest.mark.parametrize("encoding", ["gzip, identity", "gzip, gzip", "x"])
async def test_encodings_that_are_not_known(here: Stage, encoding: str) -> None:
    """Their bodies are not read."""
    answer = await here.call(request(CHAT, key=here.key, content_encoding=encoding))

    assert (answer.statuses, answer.code) == ([415], "unsupported_media_type")
    assert not here.target.received


ENCODERS = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd.compress}


@pytest.mark.parametrize("encoding", ENCODERS)
async def test_compressed(here: Stage, encoding: str) -> None:
    """A small body that becomes a huge one is given up at the limit; one that is not what it says is refused."""
    encode = ENCODERS[encoding]
    bodies = {
        200: encode(json.dumps(CHAT).encode()),
        400: json.dumps(CHAT).encode(),
        413: encode(b'{"model":"' + bytes(100 * MAX_BODY_BYTES) + b'"}'),
    }
    for status, body in bodies.items():
        here.target.received.clear()
        answer = await here.call(request(body, key=here.key, content_encoding=encoding))
        assert answer.statuses == [status]
        assert len(here.target.received) == (status == 200)


async def test_length_too_large(here: Stage) -> None:
    """Refused by what the head says; nothing of the body is waited for."""
    answer = await here.call(request(key=here.key, method="POST", content_length=str(MAX_BODY_BYTES + 1)))

    assert (answer.statuses, answer.code) == ([413], "payload_too_large")
    assert not here.target.received


async def test_body_without_an_end(here: Stage) -> None:
    """Chunks are counted as they come. A client that listens is told; of one that does not nothing is kept."""
    before = here.gateway.memory
    answers = await asyncio.gather(*(endless_body(here, listens=number % 2 == 0) for number in range(20)))

    assert [answer.statuses for answer in answers[::2]] == 10 * [[413]]
    assert here.gateway.peak_memory - before < 60 * MB
    assert not here.target.received


async def endless_body(here: Stage, *, listens: bool) -> Answer:
    """50 MB, or until the gateway hangs up, or until it answers."""
    async with here.connection() as (reader, writer), asyncio.timeout(PATIENCE):
        head = request(key=here.key, method="POST", transfer_encoding="chunked")
        writer.write(head.replace(b"connection: close\r\n", b""))
        reading = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        try:
            for _ in range(500):
                if listens and reading.done():
                    break
                writer.write(b"186a0\r\n" + 100_000 * b"x" + b"\r\n")
                await writer.drain()
            return Answer(await reading)
        except (ConnectionError, asyncio.IncompleteReadError):
            reading.cancel()
            return Answer(b"")


async def test_body_that_does_not_come(here: Stage) -> None:
    """It is waited for as long as the configuration says."""
    answer = await here.call(request(key=here.key, method="POST", content_length="100"), b'{"model"')

    assert (answer.statuses, answer.code) == ([408], "request_timeout")
    assert not here.target.received


async def test_body_that_breaks_off(here: Stage) -> None:
    """No client is there to be answered, and the target is not asked."""
    for _ in range(20):
        async with here.connection() as (_, writer):
            writer.write(request(key=here.key, method="POST", content_length="100") + b'{"model"')
            await writer.drain()

    assert not here.target.received


async def test_key_before_body(here: Stage) -> None:
    """Who has no key cannot make the gateway read."""
    answer = await here.call(request(method="POST", content_length="900000"))

    assert answer.statuses == [401]
