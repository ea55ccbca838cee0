"""The parts of a gateway through a reload, and its pages."""

import asyncio
import json
from typing import Any

from openai.types import ErrorObject

from local_gateway.config.settings import GatewaySettings
from tests.gateway.running_gateway import Running, running
from tests.gateway.targets.scripted import ScriptedBackend, ScriptedUpstream, chunk, json_answer, stream_answer

CHAT = "/v1/chat/completions"
ONE = {"type": "openai", "name": "one"}
TWO = {"type": "openai", "name": "two", "base_url": "http://two.example/v1"}


def reload(here: Running, *targets: dict[str, Any], **more: Any) -> None:
    models = {"llama": {"targets": list(targets)}}
    here.gateway.reload(GatewaySettings.model_validate({"models": models, **more}))


async def ask(here: Running, **body: Any) -> str:
    response = await here.client.post(CHAT, {"model": "llama", **body})
    return response.headers.get("x-gateway-target", str(response.status))


async def test_reload() -> None:
    """New requests go to the new target; the old one is closed."""
    old, new = ScriptedBackend(json_answer({})), ScriptedBackend(json_answer({}))
    async with running({"llama": {"targets": [ONE]}}, old, new) as here:
        assert await ask(here) == "one"
        (retired,) = here.gateway.active.targets["llama"]
        reload(here, TWO)
        retiring = here.gateway._retiring[retired]
        assert await ask(here) == "two"
        await retiring
        assert old.is_closed
        assert not new.is_closed

    assert new.is_closed


async def test_reload_keeps_targets() -> None:
    """A target that stays as it is keeps what is known of it."""
    one, two = ScriptedBackend(json_answer({"error": "no"}, 401), json_answer({})), ScriptedBackend(json_answer({}))
    async with running({"llama": {"targets": [ONE]}}, one, two) as here:
        assert await ask(here) == "502"
        (target,) = here.gateway.active.targets["llama"]
        reload(here, ONE, TWO)
        assert here.gateway.active.targets["llama"][0] is target
        assert target.states == ["config_error"]
        assert await ask(here) == "two"

    assert len(one.calls) == 1


async def test_reload_with_answers_on_their_way() -> None:
    """They go on to their end, and only then their target is closed."""
    more = asyncio.Event()
    old = ScriptedBackend(ScriptedUpstream([chunk("a"), more, chunk("b"), b"data: [DONE]\n\n"]))
    async with running({"llama": {"targets": [ONE]}}, old, ScriptedBackend()) as here:
        response, work = here.client.start("POST", CHAT, json.dumps({"model": "llama", "stream": True}).encode())
        await response.until(b'"a"')
        (retired,) = here.gateway.active.targets["llama"]
        reload(here, TWO)
        retiring = here.gateway._retiring[retired]
        await asyncio.sleep(0)
        assert not old.is_closed
        more.set()
        await work
        await retiring

    assert b'"b"' in response.body
    assert old.is_closed


async def test_reload_that_asks_for_keys() -> None:
    """From then on."""
    async with running({"llama": {"targets": [ONE]}}, ScriptedBackend(json_answer({}))) as here:
        assert await ask(here) == "one"
        reload(here, ONE, server={"require_keys": True})
        assert await ask(here) == "401"


async def test_one_target_for_two_models() -> None:
    """What is configured twice is one target, with one breaker and one worker."""
    models = {"a": {"targets": [ONE]}, "b": {"targets": [TWO, ONE]}}
    async with running(models, ScriptedBackend(), ScriptedBackend()) as here:
        targets = here.gateway.active.targets

    assert targets["a"][0] is targets["b"][1]


async def test_health() -> None:
    """A gateway that answers is alive; one with a target that may be asked is ready."""
    backend = ScriptedBackend(json_answer({"error": "no"}, 401))
    async with running({"llama": {"targets": [ONE]}}, backend) as here:
        assert (await here.client.get("/healthz")).status == 200
        assert (await here.client.get("/readyz")).status == 200
        await ask(here)
        assert (await here.client.get("/readyz")).status == 503
        assert (await here.client.get("/healthz")).status == 200


async def test_metrics() -> None:
    """Requests, tokens and breakers are there; where keys are asked for, it takes an administrator's here."""
    async with running({"llama": {"targets": [ONE]}}, ScriptedBackend(stream_answer("hi"))) as here:
        await ask(here, stream=True)
        page = (await here.client.get("/metrics")).body.decode()
        secret = here.add_key()
        other = await here.client.get("/metrics", authorization=f"Bearer {secret}")
        secret = here.add_key(is_admin=True)
        without = await here.client.get("/metrics")
        with_key = await here.client.get("/metrics", authorization=f"Bearer {secret}")

    assert 'gateway_requests_total{model="llama",outcome="ok",status="200",target="one"} 1.0' in page
    assert 'gateway_tokens_total{kind="prompt",model="llama",target="one"} 7.0' in page
    assert 'gateway_breaker_state{state="closed",target="one"} 1.0' in page
    assert (without.status, other.status, with_key.status) == (401, 404, 200)


async def test_methods_of_pages() -> None:
    """They are only read."""
    async with running({"llama": {"targets": [ONE]}}, ScriptedBackend()) as here:
        response = await here.client.request("DELETE", "/v1/models/llama")

    assert response.status == 405
    ErrorObject.model_validate(response.json()["error"])
