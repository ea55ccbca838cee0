"""Answers of targets that HTTP cannot carry, that hold a secret, or that fall silent."""

import asyncio
import json
from typing import Any

import pytest

from local_gateway.errors import TargetRefusedError, TargetUnreachableError
from tests.gateway.running_gateway import running
from tests.gateway.targets.scripted import DONE, FINISH, ROLE, ScriptedBackend, ScriptedUpstream, chunk, json_answer

CHAT = "/v1/chat/completions"
KEY = "sk-upstream-0123456789abcdef"
MODELS = {"llama": {"targets": [{"type": "openai", "name": "one", "api_key": KEY}]}}
ASK = {"model": "llama", "messages": []}
STREAM = {**ASK, "stream": True}
ONCE = {"retry": {"max_attempts": 1, "backoff": 0}}
OK = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
BINARY = {"content-type": "audio/wav"}


@pytest.mark.parametrize("status", [101, 100, 0, 600, 999, 10**6])
async def test_statuses_that_http_does_not_have(status: int) -> None:
    """Whatever a target makes up, the client gets an answer that it can read."""
    async with running(MODELS, ScriptedBackend(json_answer(OK, status)), **ONCE) as here:
        response = await here.client.post(CHAT, ASK)

    assert response.status == 502
    assert "message" in response.json()["error"]
    assert here.record.status == 502


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ('attachment; filename="\u65e5\u672c.wav"', 'attachment; filename="\u65e5\u672c.wav"'.encode()),
        ("caf\udce9", b"caf\xe9"),
        ("a\r\nx-evil: 1", None),
        ("a\0b", None),
        ("x" * 9000, None),
        (f"key {KEY}", b"key [redacted]"),
    ],
)
async def test_headers(value: str, sent: bytes | None) -> None:
    """They leave as the bytes that they came as, or not at all."""
    upstream = ScriptedUpstream([b"RIFF"], headers={**BINARY, "content-disposition": value})
    async with running(MODELS, ScriptedBackend(upstream), **ONCE) as here:
        response = await here.client.post("/v1/audio/speech", ASK)

    headers = dict(response.messages[0]["headers"])
    assert (response.status, response.body) == (200, b"RIFF")
    assert headers.get(b"content-disposition") == sent
    assert b"x-evil" not in headers


SPLIT = [KEY.encode()[:10], KEY.encode()[10:], b" and more"]


@pytest.mark.parametrize(
    "upstream",
    [
        json_answer({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 400),
        json_answer({"error": {"message": "bad", "param": KEY, "extra": [KEY]}}, 500),
        json_answer({**OK, "echo": f"Bearer {KEY}"}),
        ScriptedUpstream([ROLE, chunk(f"key {KEY}"), FINISH, DONE]),
        ScriptedUpstream([ROLE, chunk("hi"), b'data: {"error": {"message": "' + KEY.encode() + b'"}}\n\n', DONE]),
        ScriptedUpstream([b"RIFF " + KEY.encode() + b" and more"], headers=BINARY),
        ScriptedUpstream(SPLIT, headers=BINARY),
        ScriptedUpstream([*(bytes([byte]) for byte in KEY.encode()), b" and more"], headers=BINARY),
    ],
)
async def test_secrets(upstream: ScriptedUpstream) -> None:
    """In no error, event or body."""
    path = "/v1/audio/speech" if upstream.headers == BINARY else CHAT
    async with running(MODELS, ScriptedBackend(upstream), **ONCE) as here:
        response = await here.client.post(path, {**ASK, "stream": path == CHAT and "event" in str(upstream.headers)})

    assert KEY.encode() not in response.body
    assert b"[redacted]" in response.body
    assert path == CHAT or response.body.endswith(b" and more")


async def test_parts_of_secrets() -> None:
    """Targets that hide the end of a key show its beginning."""
    error = TargetRefusedError(400, {"message": "Incorrect API key provided: sk-upstream-0123****cdef."})
    async with running(MODELS, ScriptedBackend(error), **ONCE) as here:
        response = await here.client.post(CHAT, ASK)

    assert b"upstream-0123" not in response.body


async def test_silence_in_mid_stream() -> None:
    """Comments between events, so that proxies do not take it for dead."""
    more = asyncio.Event()
    backend = ScriptedBackend(ScriptedUpstream([ROLE, chunk("he"), more, chunk("llo"), FINISH, DONE]))
    async with running(MODELS, backend, timeouts={"keep_alive": 0.01}) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(STREAM).encode())
        await response.until(b": keep-alive\n\n: keep-alive\n\n")
        more.set()
        await work

    assert response.body.replace(b": keep-alive\n\n", b"") == b"".join([ROLE, chunk("he"), chunk("llo"), FINISH, DONE])


async def test_no_comments_into_an_event() -> None:
    """What a target has sent half of is not cut in two; nor is a stream that never falls silent commented on."""
    backend = ScriptedBackend(ScriptedUpstream([ROLE, chunk("hi"), FINISH, DONE]))
    async with running(MODELS, backend, timeouts={"keep_alive": 60}) as here:
        response = await here.client.post(CHAT, STREAM)

    assert b"keep-alive" not in response.body


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("half", [b"", b'data: {"half'])
async def test_the_end_of_a_broken_stream(path: str, half: bytes) -> None:
    """An error event and [DONE], on every path, also where the target broke off within an event."""
    first = chunk("hi") if path == CHAT else b'data: {"type":"response.output_text.delta","text":"hi","delta":"hi"}\n\n'
    pieces: list[Any] = [first, *([half] if half else []), TargetUnreachableError("It broke off.")]
    async with running(MODELS, ScriptedBackend(ScriptedUpstream(pieces)), **ONCE) as here:
        response = await here.client.post(path, {**STREAM, "prompt": "a", "input": "a"})

    *_, error, done, rest = response.body.split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "target_unreachable"
    assert (done, rest) == (b"data: [DONE]", b"")


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_gateway_that_is_stopped(is_stream: bool) -> None:
    """Its requests end with an error and a record, at whatever stage they are."""
    backend = ScriptedBackend(asyncio.Event())
    async with running(MODELS, backend, timeouts={"commit": 0.01}) as here:
        response, work = here.client.start("POST", CHAT, json.dumps({**ASK, "stream": is_stream}).encode())
        await backend.called.wait()
        if is_stream:
            await response.until(b"keep-alive")
        here.gateway.running.stop(at_once=False)
        await work
        assert await here.gateway.running.over(1)

    assert b"gateway_stopping" in response.body
    assert response.status == (200 if is_stream else 503)
    assert (here.record.outcome, here.record.status) == ("stopped", 503)
    assert backend.num_cancelled == 1
