"""The command that tells who used what."""

import argparse
import csv
import io
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from local_gateway.accounts.worker_runs import WorkerRun
from local_gateway.commands import usage as usage_command
from local_gateway.config.settings import GatewaySettings
from local_gateway.storage.store import Store
from tests.gateway.usage_samples import NOON, record_of

DAY = 86400.0


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    return GatewaySettings.model_validate(
        {
            "models": {"llama": {"targets": [{"type": "local"}]}},
            "database": {"url": f"sqlite:///{tmp_path}/gateway.db"},
        }
    )


@pytest.fixture
def usage(settings: GatewaySettings, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command on three requests; returns what it prints."""
    bob = {
        "key_name": "bob",
        "end_user": "ann@example.com",
        "model": "llama",
        "target": "local:demo",
        "num_prompt_tokens": 1000,
    }
    with closing(Store(settings.database.url)) as store:
        store.add(
            [
                record_of(**bob, cost=0.25, first_token_seconds=0.5),
                record_of(**bob, cost=1234.5, num_completion_tokens=30, status=502, time=NOON - DAY),
                record_of(key_name="=eve()", model="\x1b[31mred", num_cached_tokens=7, num_prompt_tokens=8),
            ]
        )

    def run(*arguments: str) -> str:
        parser = argparse.ArgumentParser()
        usage_command.add_arguments(parser)
        assert usage_command.run(parser.parse_args(arguments), settings) == 0
        return capsys.readouterr().out

    return run


def test_a_table_by_key(usage: Callable[..., str]) -> None:
    """For people: the dearest first, a sum at the end, numbers that can be read."""
    lines = [line.split() for line in usage().splitlines()[3:] if line.strip()]

    assert lines == [
        ["bob", "2", "1", "2,000", "0", "30", "1,234.7500", "0.50"],
        ["=eve()", "1", "0", "8", "7", "0", "0.0000"],
        ["total", "3", "1", "2,008", "7", "30", "1,234.7500"],
    ]


def test_csv_has_exact_numbers(usage: Callable[..., str]) -> None:
    """For programs; text that a spreadsheet would run is marked as text."""
    rows = list(csv.DictReader(io.StringIO(usage("--csv"))))

    assert [row["key"] for row in rows] == ["bob", "'=eve()"]
    assert (rows[0]["cost"], rows[0]["prompt tokens"], rows[1]["first token (s)"]) == ("1234.75", "2000", "")


def test_by_model_target_and_day(usage: Callable[..., str]) -> None:
    """One line for each; who is not known is a dash."""
    assert [line.split()[0] for line in usage("--by", "day").splitlines()[3:5]] == ["2026-11-21", "2026-11-22"]
    assert [line.split()[0] for line in usage("--by", "target").splitlines()[3:5]] == ["local:demo", "-"]
    assert "llama" in usage("--by", "model")
    assert [line.split()[:2] for line in usage("--by", "user").splitlines()[3:5]] == [
        ["ann@example.com", "2"],
        ["-", "1"],
    ]


def test_by_endpoint(usage: Callable[..., str], settings: GatewaySettings) -> None:
    """What RunPod takes for its workers, and so what tokens and cold starts really cost."""
    run = WorkerRun(endpoint="ep", worker_id="w", started=NOON, seconds=99.5, start_seconds=20, price=0.001)
    with closing(Store(settings.database.url)) as store:
        store.keep_runs([run, replace(run, endpoint="unused", start_seconds=None, seconds=9)])
        store.add([record_of(endpoint="ep", num_prompt_tokens=3000, num_completion_tokens=1000)])

    table = [line.split() for line in usage("--by", "endpoint").splitlines()[3:] if line.strip()]
    rows = list(csv.reader(io.StringIO(usage("--by", "endpoint", "--csv"))))

    assert table == [
        ["ep", "1", "100", "20", "3,000", "1,000", "0.1000", "100.0000", "0.0200"],
        ["unused", "1", "9", "0", "0", "0", "0.0090", "-", "-"],
    ]
    assert rows[0][:3] == ["endpoint", "starts", "billed seconds"]
    assert rows[1] == ["ep", "1", "100", "20.0", "3000", "1000", "0.1", "100.0", "0.02"]
    assert rows[2][-2:] == ["", ""]
    assert "ep" not in usage("--by", "endpoint", "--since", "2026-11-23")


def test_names_that_clients_choose_do_not_steer_the_terminal(usage: Callable[..., str]) -> None:
    """Escape sequences are shown as what they are."""
    out = usage("--by", "model")

    assert "?[31mred" in out
    assert "\x1b" not in out


def test_since_a_day(usage: Callable[..., str]) -> None:
    """The day itself included."""
    rows = list(csv.DictReader(io.StringIO(usage("--csv", "--since", "2026-11-22"))))

    assert [(row["key"], row["requests"]) for row in rows] == [("bob", "1"), ("'=eve()", "1")]


def test_without_usage_there_is_an_empty_table(settings: GatewaySettings, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first request the database may not even exist."""
    usage_command.run(argparse.Namespace(by="key", since=None, csv=False), settings)

    assert "requests" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--by", "prompt"], ["--since", "yesterday"], ["--since", "2026-13-01"]])
def test_arguments_that_are_wrong(
    usage: Callable[..., str], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused with a reason."""
    with pytest.raises(SystemExit):
        usage(*arguments)

    assert "error:" in capsys.readouterr().err
