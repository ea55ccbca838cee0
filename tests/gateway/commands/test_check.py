"""`python -m local_gateway check` says of every target whether it can be used."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from local_gateway.backends.base import Health
from local_gateway.commands import check
from local_gateway.commands.check import Finding
from local_gateway.config.load import load
from tests.gateway.scripted_backend import ScriptedBackend, make_target

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


def test_target_that_nobody_answers_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With real backends. A worker on this machine is not started for it."""
    path = tmp_path / "gateway.yaml"
    nobody = {"type": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-s3cret"}
    path.write_text(json.dumps({"models": {"a": {"targets": [nobody]}, "b": {"targets": [{"type": "local"}]}}}))

    status = check.run(Namespace(), load(path, {"HOME": "/"}))
    shown = capsys.readouterr().out

    assert status == 1
    assert [line.split()[:3] for line in shown.splitlines() if "127.0.0.1" in line or "local:" in line] == [
        ["openai:127.0.0.1:9", "a", "bad"],
        ["local:demo", "b", "ok"],
    ]
    assert "s3cret" not in shown
