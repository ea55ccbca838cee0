"""A gateway that is stopped while it works: clients are told, and nothing is lost from the accounts."""

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.gateway.gateway_process import GatewayProcess, rows, running
from tests.gateway.targets.on_socket import FakeOpenAI, Received, Reply
from tests.gateway.wire_samples import events_of, text_events

NUM_STREAMS = 20
PATHS = {"chat": "/chat/completions", "text": "/completions", "responses": "/responses"}


WHOLE = b"".join(events_of(text_events("Par", "is.")))


def endless(received: Received) -> Reply:
    """A stream that has begun; or an answer that never comes."""
    if not received.json.get("stream"):
        return Reply(held=asyncio.Event())
    if received.path.endswith("/responses"):
        event = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Par"}\n\n'
        return Reply([event, asyncio.Event()])
    return Reply([b"\n\n".join(WHOLE.split(b"\n\n")[:2]) + b"\n\n", asyncio.Event()])


async def ask(gateway: GatewayProcess, session: aiohttp.ClientSession, path: str, *, stream: bool) -> tuple[int, bytes]:
    body: dict[str, Any] = {"model": "model", "messages": [], "prompt": "a", "input": "a", "stream": stream}
    async with session.post(gateway.api + path, json=body) as answer:
        return answer.status, await answer.read()


async def ended_by(gateway: GatewayProcess) -> int:
    return await asyncio.to_thread(gateway.process.wait, 30)


@pytest.mark.parametrize("signals", [1, 2], ids=["one signal", "two signals"])
async def test_sigterm(tmp_path: Path, signals: int) -> None:
    """An error event and [DONE] in every stream, an error of OpenAI's form for what had no answer, and every record."""
    drain = "300ms" if signals == 1 else "60s"
    async with FakeOpenAI(endless) as target, aiohttp.ClientSession() as session:
        models = {"model": {"targets": [{"type": "openai", "base_url": target.url, "price": {"prompt": 1e6}}]}}
        async with running(tmp_path, {"models": models, "server": {"drain": drain}}) as gateway:
            streams = [
                asyncio.create_task(ask(gateway, session, path, stream=True))
                for path in PATHS.values()
                for _ in range(NUM_STREAMS)
            ]
            whole = [asyncio.create_task(ask(gateway, session, "/chat/completions", stream=False)) for _ in range(5)]
            await target.until(lambda: len(target.received) == len(streams) + len(whole))
            await asyncio.sleep(0.5)  # for what was answered to be passed on
            for _ in range(signals):
                gateway.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)
            answers = await asyncio.gather(*streams)
            refusals = await asyncio.gather(*whole)
            code = await ended_by(gateway)
            log = gateway.log
        records = rows(gateway.database, "SELECT outcome, status, cost > 0 FROM gateway_usage")

    assert code == 0
    for status, body in answers:
        *_, error, done, rest = body.split(b"\n\n")
        assert (status, done, rest) == (200, b"data: [DONE]", b""), body
        assert b"gateway_stopping" in error, body
        assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "gateway_stopping"
    for status, body in refusals:
        assert (status, json.loads(body)["error"]["code"]) == (503, "gateway_stopping")
    assert Counter(records) == {("stopped", 503, 1): len(streams) + len(whole)}
    assert "Traceback" not in log


async def test_what_ends_within_the_drain(tmp_path: Path) -> None:
    """It is answered to its end, and is an answer like others."""
    more = asyncio.Event()
    async with FakeOpenAI() as target, aiohttp.ClientSession() as session:
        models = {"model": {"targets": [{"type": "openai", "base_url": target.url}]}}
        target.once.append(Reply([WHOLE[:300], more, WHOLE[300:]]))
        async with running(tmp_path, {"models": models, "server": {"drain": "30s"}}) as gateway:
            asking = asyncio.create_task(ask(gateway, session, "/chat/completions", stream=True))
            await target.until(lambda: target.received)
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            more.set()
            status, body = await asking
            assert await ended_by(gateway) == 0
        records = rows(gateway.database, "SELECT outcome, status FROM gateway_usage")

    assert (status, body.endswith(b"data: [DONE]\n\n"), b"error" in body) == (200, True, False)
    assert records == [("ok", 200)]


def odd(received: Received) -> Reply:
    """A target that is at its limit, silent, in the middle of a sound, or in that of a message, as the model says."""
    match received.json["model"]:
        case "limited":
            return Reply.error(429, "slow down", retry_after="15")
        case "failing":
            return Reply.error(500, "no")
        case "sound":
            return Reply([b"RIFF" * 1000, asyncio.Event()], headers={"content-type": "audio/wav"})
        case "message":
            event = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}\n\n'
            text = (
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"Par"}}\n\n'
            )
            return Reply([event, text, asyncio.Event()])
    return Reply(held=asyncio.Event())


STATES: dict[str, tuple[str, dict[str, Any]]] = {
    "waiting for a limit": ("/chat/completions", {"model": "limited"}),
    "between two tries": ("/chat/completions", {"model": "failing"}),
    "a stream that is kept alive": ("/chat/completions", {"model": "silent", "stream": True}),
    "shared by ten": ("/chat/completions", {"model": "shared", "temperature": 0, "stream": True}),
    "a sound": ("/audio/speech", {"model": "sound"}),
    "a message": ("/messages", {"model": "message", "stream": True}),
    "an embedding": ("/embeddings", {"model": "silent"}),
}
STREAMS = ("a stream that is kept alive", "shared by ten", "a message")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_whatever_a_request_is_at(tmp_path: Path, number: signal.Signals) -> None:
    """Waiting, trying again, kept alive, shared, in the middle of a sound: each is told, and each has a record."""
    async with FakeOpenAI(odd) as target, aiohttp.ClientSession() as session:
        one = {"type": "openai", "base_url": target.url, "breaker": {"failures": 1000}}
        models = {"*": {"targets": [one]}, "shared": {"targets": [{**one, "name": "two"}], "coalesce": "key"}}
        config = {
            "models": models,
            "server": {"drain": "300ms"},
            "retry": {"backoff": "30s", "max_wait": "30s"},
            "timeouts": {"commit": "100ms", "keep_alive": "50ms"},
        }
        async with running(tmp_path, config) as gateway:

            async def post(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
                full = {"messages": [], "input": "a", "voice": "x", "max_tokens": 9, **body}
                async with session.post(gateway.api + path, json=full) as answer:
                    try:
                        return answer.status, await answer.read()
                    except aiohttp.ClientPayloadError:
                        return answer.status, b"broken off"

            asked = {name: [post(*what) for _ in range(10 if "ten" in name else 1)] for name, what in STATES.items()}
            tasks = {name: [asyncio.create_task(each) for each in group] for name, group in asked.items()}
            await target.until(lambda: len(target.received) >= len(STATES))
            _, half = await asyncio.open_connection("127.0.0.1", gateway.port)
            half.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99\r\n\r\n{")
            await asyncio.sleep(0.5)
            gateway.process.send_signal(number)
            answers = {name: await asyncio.gather(*group) for name, group in tasks.items()}
            code = await ended_by(gateway)
            half.close()
            log = gateway.log
        records = rows(gateway.database, "SELECT outcome FROM gateway_usage")

    assert code == 0
    assert "Traceback" not in log
    for name in STREAMS:
        for status, body in answers[name]:
            assert (status, body.endswith(b"data: [DONE]\n\n"), b"gateway_stopping" in body) == (200, True, True), name
    assert answers["a sound"] == [(200, b"broken off")]
    for name in ("waiting for a limit", "between two tries", "an embedding"):
        ((status, body),) = answers[name]
        assert (status, json.loads(body)["error"]["code"]) == (503, "gateway_stopping"), name
    assert Counter(records) == {("stopped",): len(STATES) - 1 + 10 + 1}
