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
