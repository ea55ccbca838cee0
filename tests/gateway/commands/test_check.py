"""`python -m local_gateway check` says of every target whether it can be used."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from local_gateway.backends.base import Health
from local_gateway.backends.openai import OpenAIBackend
from local_gateway.commands import check
from local_gateway.commands.check import Finding
from local_gateway.config.load import load
from local_gateway.config.settings import OpenAITarget
from tests.gateway.targets.never_asked import FakeClock, target_of
from tests.gateway.targets.on_socket import Exchange, reply, target_and_client
from tests.gateway.targets.scripted import ScriptedBackend, make_target

GOOD = Health(True, "well", num_ready_workers=1)
BAD = Health(False, "It does not accept our key.")


async def test_each_target_is_asked_once() -> None:
    """Also one that answers for two models; all of them are closed then."""
    good, bad = ScriptedBackend(), ScriptedBackend()
    bad.health_now = BAD
    one, two = make_target(good, "one"), make_target(bad, "two")

    findings = await check.ask({"llama": (one, two), "gpt-*": (two,)})

    assert findings == [Finding("one", ("llama",), GOOD), Finding("two", ("llama", "gpt-*"), BAD)]
    assert good.is_closed
    assert bad.is_closed


@pytest.mark.parametrize(("health", "word", "status"), [(GOOD, "ok", 0), (BAD, "bad", 1)])
def test_report(health: Health, word: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people; the exit status is for scripts."""
    returned = check.report([Finding("one", ("llama", "gpt-*"), GOOD), Finding("openai:[x]", ("llama",), health)])
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    assert returned == status
    assert "one llama, gpt-* ok well" in rows
    assert f"openai:[x] llama {word} {health.detail}" in rows


async def test_endpoints_whose_workers_are_counted() -> None:
    """They are asked for their workers: a key that may not read the endpoint is told before it costs the accounts."""
    worker = {"id": "w", "status": "IDLE", "startedAt": "2026-11-22T12:00:00Z", "uptimeSeconds": 5}

    async def answer(exchange: Exchange) -> None:
        await exchange.send(reply(200, {"workers": [worker]}) if "/good/" in exchange.path else reply(403, {}))

    async with target_and_client(answer) as (server, http):
        usual = {"type": "runpod_queue", "api_key": "k", "rest_url": server.url}
        targets = {
            name: (target_of(FakeClock(), **usual, endpoint_id=name, worker_price=price),)
            for name, price in (("good", 0.5), ("bad", 0.5), ("unpriced", 0))
        }
        findings = await check.ask_for_workers(targets, http)

    assert [(finding.target, finding.models, finding.health.is_ok) for finding in findings] == [
        ("runpod_queue:good: its workers", ("good",), True),
        ("runpod_queue:bad: its workers", ("bad",), False),
    ]
    assert findings[0].health.detail == "1 run now; counted at 0.5 a second"


def test_target_at_a_dead_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With real backends. A worker on this machine is not started for it."""
    path = tmp_path / "gateway.yaml"
    dead = {"type": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-s3cret"}
    path.write_text(json.dumps({"models": {"a": {"targets": [dead]}, "b": {"targets": [{"type": "local"}]}}}))

    status = check.run(Namespace(), load(path, {"HOME": "/"}))
    shown = capsys.readouterr().out

    assert status == 1
    assert [line.split()[:3] for line in shown.splitlines() if "127.0.0.1" in line or "local:" in line] == [
        ["openai:127.0.0.1:9", "a", "bad"],
        ["local:demo", "b", "ok"],
    ]
    assert "s3cret" not in shown


# Mistakes that a target cannot tell from a missing list of models


@pytest.mark.parametrize(
    ("path", "is_ok", "hint"),
    [
        ("/v1", True, "answers"),
        ("/v1/", True, "answers"),
        ("", False, "ends too early"),
        ("/", False, "ends too early"),
        ("/v1/chat/completions", False, "ends too late: write it without /chat/completions"),
        ("/v1/embeddings/", False, "ends too late: write it without /embeddings"),
        ("/v1/models", False, "ends too late: write it without /models"),
        ("/other/v4", True, "has no list of models"),
    ],
)
async def test_base_url(path: str, is_ok: bool, hint: str) -> None:
    """One that ends too early or too late is told from a server that only has no list of models."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(reply(200, {"data": []}) if exchange.path == "/v1/models" else reply(404))

    async with target_and_client(script) as (server, http):
        settings = OpenAITarget(type="openai", base_url=f"{server.url}{path}")
        health = await OpenAIBackend(settings, http).health()

    assert (health.is_ok, hint in health.detail) == (is_ok, True)


@pytest.mark.parametrize(
    "value",
    ["os.environ/OPENAI_API_KEY", "os.environ['KEY']", 'os.getenv("KEY")', "env:KEY", "$KEY", "%KEY%", "{{ KEY }}"],
)
@pytest.mark.parametrize("place", ["api_key", "headers"])
async def test_variable_of_another_program(place: str, value: str) -> None:
    """What names an environment variable in another program's way is no key; the target is not sent it."""
    backend = ScriptedBackend()
    given = {"headers": {"api-key": value}} if place == "headers" else {"api_key": value}
    if place == "api_key" and " " in value:
        pytest.skip("no key has a space: the settings say so")
    settings = OpenAITarget.model_validate({"type": "openai", **given})

    (finding,) = await check.ask({"llama": (make_target(backend, "one", settings),)})

    assert not finding.health.is_ok
    assert "${NAME}" in finding.health.detail
    assert value not in finding.health.detail


async def test_keys_that_look_odd() -> None:
    """They are keys all the same."""
    for value in ("sk-os.environ", "$2b$10$abc", "env", "rpa_%AB"):
        settings = OpenAITarget.model_validate({"type": "openai", "api_key": value})
        (finding,) = await check.ask({"llama": (make_target(ScriptedBackend(), "one", settings),)})
        assert finding.health.is_ok, value
