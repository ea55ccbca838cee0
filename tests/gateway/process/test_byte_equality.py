"""What a client gets from a target that speaks OpenAI's API is what the target sent, byte for byte."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

import tests.gateway.wire_samples as wire
from tests.gateway.gateway_process import GatewayProcess, running
from tests.gateway.targets.on_socket import EVENTS, FakeOpenAI, Reply, Step

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = {"model": "plain", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
CAT = "\N{CAT FACE}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(target: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    plain = {"type": "openai", "base_url": target.url, "stream_usage": False}
    counted = {"type": "openai", "base_url": target.url, "model": "model"}
    broken = {**plain, "breaker": {"failures": 1000}}
    models = {"plain": {"targets": [plain]}, "counted": {"targets": [counted]}, "broken": {"targets": [broken]}}
    async with running(tmp_path_factory.mktemp("gateway"), {"models": models}) as gateway:
        yield gateway


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def as_new(target: FakeOpenAI) -> None:
    target.reset()


async def send(gateway: GatewayProcess, body: Any, path: str = "chat/completions") -> tuple[int, str, bytes]:
    """Status, type and body of the answer."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        async with session.post(f"{gateway.api}/{path}", data=raw, headers=headers) as answer:
            return answer.status, answer.headers["content-type"], await answer.read()


def sent(steps: Sequence[Step]) -> bytes:
    return b"".join(step for step in steps if isinstance(step, bytes))


def with_newlines(newline: bytes) -> list[bytes]:
    return [event.replace(b"\n", newline) for event in wire.text_events("Par", "is.")]


STREAMS: dict[str, Sequence[Step]] = {
    "one event a write": wire.text_events("Par", "is."),
    "all in one write": wire.events_of(wire.text_events("Par", "is.")),
    "each byte by itself": [bytes([byte]) for byte in sent(wire.text_events("Par", "is."))],
    "carriage returns": with_newlines(b"\r\n"),
    "carriage returns only": with_newlines(b"\r"),
    "comments": wire.COMMENTS,
    "a character in two pieces": wire.cut_in_a_character(),
    "no choices at first": wire.AZURE,
    "null as content": wire.LLAMA_SERVER,
    "text in the last chunk": wire.TEXT_WITH_FINISH,
    "no finish_reason": wire.NO_FINISH,
    "no [DONE]": wire.NO_DONE,
    "an unfinished end": wire.DONE_WITHOUT_BLANK_LINE,
    "an error in the middle": wire.BROKEN,
    "reasoning": wire.REASONING,
    "fields of an event": [b"id: 7\nevent: chunk\nretry: 10\n" + event for event in wire.text_events("Par", "is.")],
    "data in two lines": [b'data: {"choices":\ndata:  [{"index":0,"delta":{"content":"Hi"}}]}\n\n', wire.DONE],
    "no space after the colon": [event.replace(b"data: ", b"data:") for event in wire.text_events("Par", "is.")],
    "a mark of the byte order": [b"\xef\xbb\xbf" + sent(wire.text_events("Par", "is."))],
    "bad UTF-8": [wire.chunk({"content": "Hi"}).replace(b"Hi", b"H\xff\xfei"), wire.DONE],
    "unknown events": [wire.event({"a": [1e400, 0.10, 10**30]}), b"data: text\n\n", *wire.text_events("Hi")],
    "half a megabyte in one event": wire.text_events(500_000 * "x"),
    "much at once": [sent(wire.text_events(*(f"{number} " for number in range(5000))))],
    "after [DONE]": [*wire.text_events("Hi"), b": bye\n\n"],
}


@pytest.mark.parametrize("steps", STREAMS.values(), ids=STREAMS)
async def test_stream(gateway: GatewayProcess, target: FakeOpenAI, steps: Sequence[Step]) -> None:
    """Nothing is added, left out or written differently."""
    target.once.append(Reply(steps))
    status, kind, body = await send(gateway, CHAT)

    assert (status, kind) == (200, "text/event-stream; charset=utf-8")
    assert body == sent(steps)


async def test_streams_in_random_pieces(gateway: GatewayProcess, target: FakeOpenAI) -> None:
    """Wherever the network cuts."""
    rng = random.Random(0)
    whole = sent(wire.text_events(*(rng.choice(["a", "\n\n", CAT, "\\", "data: ", "\r\n", ""]) for _ in range(50))))
    for _ in range(20):
        pieces = wire.cut(whole, *sorted(rng.sample(range(1, len(whole)), rng.randint(1, 40))))
        target.once.append(Reply(pieces))
        assert (await send(gateway, CHAT))[2] == whole


async def test_events_come_as_they_are_sent(gateway: GatewayProcess, target: FakeOpenAI) -> None:
    """The target sends the next event only when the client has the one before."""
    events = wire.text_events("Par", "is.")
    gates = [asyncio.Event() for _ in events[2:]]
    steps: list[Step] = [events[0] + events[1]]
    for gate, event in zip(gates, events[2:], strict=True):
        steps += [gate, event]
    target.once.append(Reply(steps))
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{gateway.api}/chat/completions", json=CHAT) as answer,
    ):
        got = await answer.content.readexactly(len(events[0] + events[1]))
        for gate, event in zip(gates, events[2:], strict=True):
            gate.set()
            got += await answer.content.readexactly(len(event))

    assert got == sent(events)


async def test_counts_that_were_not_asked_for(gateway: GatewayProcess, target: FakeOpenAI) -> None:
    """The gateway asks for token counts itself. Its client gets the stream without them, and else all of it."""
    target.once += [Reply(wire.USAGE_AT_END), Reply(wire.USAGE_AT_END)]
    hidden = (await send(gateway, {**CHAT, "model": "counted"}))[2]
    asked = {**CHAT, "model": "counted", "stream_options": {"include_usage": True}}
    shown = (await send(gateway, asked))[2]

    assert [request.json["stream_options"] for request in target.received] == 2 * [{"include_usage": True}]
    assert hidden == sent(wire.text_events("Par", "is."))
    assert shown == sent(wire.USAGE_AT_END)


async def test_completion(gateway: GatewayProcess, target: FakeOpenAI) -> None:
    """The older kind of stream."""
    events = wire.completion("Par", "is.")
    target.once.append(Reply(events))

    assert (await send(gateway, {"model": "plain", "prompt": "Hi", "stream": True}, "completions"))[2] == sent(events)


async def test_responses(gateway: GatewayProcess, target: FakeOpenAI) -> None:
    """Events with names."""
    body = {"model": "plain", "input": "Hi", "stream": True}

    assert (await send(gateway, body, "responses"))[2] == wire.OPENAI_RESPONSES


BODIES = {
    "strange but JSON": b'{ "id" : "x",\n\t"n": 1e2, "big": 123456789012345678901234567890, "a": 1, "a": 2 }\n',
    "a megabyte": json.dumps(wire.answer_of("chat/completions", 1_000_000 * "x")).encode(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_answer_that_is_not_streamed(gateway: GatewayProcess, target: FakeOpenAI, body: bytes) -> None:
    target.once.append(Reply([body] if body else [], headers={"content-type": "application/json"}))

    assert await send(gateway, {**CHAT, "stream": False}) == (200, "application/json", body)


@pytest.mark.parametrize("body", [b"\xff\x00 this is no JSON", b"", b'{"choices": ['])
async def test_answer_that_is_no_json(gateway: GatewayProcess, target: FakeOpenAI, body: bytes) -> None:
    """No client of a chat can read it, so it is not passed on as a success."""
    target.script = lambda _: Reply([body] if body else [], headers={"content-type": "application/json"})
    status, _, told = await send(gateway, {**CHAT, "model": "broken", "stream": False})

    assert (status, json.loads(told)["error"]["code"]) == (502, "answer_broken")


async def test_answer_that_is_no_text(gateway: GatewayProcess, target: FakeOpenAI) -> None:
    """Speech, for example, in pieces."""
    rng = random.Random(1)
    pieces = [rng.randbytes(10_000) for _ in range(20)]
    target.once.append(Reply(pieces, headers={"content-type": "audio/mpeg"}))

    answer = await send(gateway, {"model": "plain", "input": "Hi", "voice": "alloy"}, "audio/speech")

    assert answer == (200, "audio/mpeg", b"".join(pieces))


REQUESTS = {
    "spaces": b'{ "model" : "plain" ,\r\n "messages":[{"role":"user","content":"Hi"}], "temperature": 0.10 }',
    "unknown fields": b'{"model":"plain","messages":[],"new_thing":{"deep":[1,null,true]},"n":null}',
    "long numbers": b'{"model":"plain","messages":[],"seed":123456789012345678901234567890,"x":1.0}',
    "escapes": b'{"model":"plain","messages":[{"role":"user","content":"\\u00e9\\ud83d\\ude00 \xc3\xa9"}]}',
}


@pytest.mark.parametrize("body", REQUESTS.values(), ids=REQUESTS)
async def test_request(gateway: GatewayProcess, target: FakeOpenAI, body: bytes) -> None:
    """A target gets the client's own bytes where nothing in them has to change for it."""
    assert (await send(gateway, body))[0] == 200

    assert target.received[0].body == body


async def test_upload(gateway: GatewayProcess, target: FakeOpenAI) -> None:
    """A form with a file in it goes on to OpenAI's target as it is, with its address."""
    form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\x00\xff\r\n--x--\r\n'
    async with aiohttp.ClientSession() as session:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        url = URL(f"{gateway.api}/audio/transcriptions?language=de&a=%2F", encoded=True)
        async with session.post(url, data=form, headers=headers) as answer:
            status = answer.status

    assert status == 404  # as the target says
    (request,) = target.received
    assert request.path == "/v1/audio/transcriptions?language=de&a=%2F"
    assert request.body == form
    assert request.headers["content-type"] == headers["content-type"]


async def test_headers(gateway: GatewayProcess, target: FakeOpenAI) -> None:
    """Of the target's headers a client sees those that are about the answer."""
    about_answer = {"openai-processing-ms": "12", "x-ratelimit-remaining-tokens": "99", "openai-version": "2020-10-01"}
    hidden = {"set-cookie": "a=b", "server": "nginx", "openai-organization": "org-1", "x-internal": "1", "cf-ray": "2"}
    target.once.append(Reply(wire.text_events("Hi"), headers={**EVENTS, **about_answer, **hidden}))
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{gateway.api}/chat/completions", json=CHAT) as answer,
    ):
        await answer.read()

    assert about_answer.items() <= {name.lower(): value for name, value in answer.headers.items()}.items()
    assert not {name.lower() for name in answer.headers} & hidden.keys()
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
