"""The command line: which command runs, with which settings, and that every mistake is one line."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from local_gateway.commands.cli import COMMANDS, main, parse, split, with_options, without_providers
from local_gateway.config.load import from_environment
from local_gateway.config.settings import LocalTarget

Start = Callable[..., int]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    """`python -m local_gateway` in an empty folder, with nothing in the environment but what is given."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("GATEWAY_", "RUNPOD_", "OPENAI_")):
            monkeypatch.delenv(name)

    def start(*args: str, **environ: str) -> int:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return main(args)

    return start


# Which command


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ([], ("serve", [])),
        (["--port", "9000"], ("serve", ["--port", "9000"])),
        (["serve", "--demo"], ("serve", ["--demo"])),
        (["keys", "list"], ("keys", ["list"])),
    ],
)
def test_serve_need_not_be_said(argv: list[str], command: tuple[str, list[str]]) -> None:
    """Options alone are those of serve."""
    assert split(argv) == command


def test_a_command_that_does_not_exist(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """Which ones there are is said; nothing starts."""
    with pytest.raises(SystemExit, match="2"):
        start("sevre")

    assert "there is no command 'sevre'; commands: serve, check, keys, usage, chat, schema" in capsys.readouterr().err


def test_help(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """All commands, one line each."""
    with pytest.raises(SystemExit, match="0"):
        start("--help")

    shown = capsys.readouterr().out
    assert all(f"\n  {name:8} {command.help}\n" in shown for name, command in COMMANDS.items())


@pytest.mark.parametrize("argv", [["create", "ann", "--config", "a.yaml"], ["--config=a.yaml", "create", "ann"]])
def test_the_file_may_be_named_anywhere(argv: list[str]) -> None:
    """Before or behind a command's own command."""
    args = parse("keys", argv)

    assert (args.config, args.keys_command, args.name) == ("a.yaml", "create", "ann")


def test_the_schema(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """Is printed as JSON, for editors."""
    assert start("schema") == 0
    assert '"models"' in capsys.readouterr().out


# With which settings


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"host": None, "port": None, "insecure": None, **given})


def test_options_count_more_than_the_environment() -> None:
    """And what they do not say stays."""
    settings = from_environment({"GATEWAY_HOST": "10.0.0.1", "GATEWAY_PORT": "9000"})

    server = with_options(settings, options(port=0, insecure=True)).server

    assert (server.host, server.port, server.insecure) == ("10.0.0.1", 0, True)
    assert with_options(settings, options()) == settings


def test_the_demo_needs_no_provider() -> None:
    """Whatever keys a person has: the demo is a worker on this machine. Its address may be said."""
    environ = {"OPENAI_API_KEY": "sk-1", "RUNPOD_API_KEY": "rpa_1", "GATEWAY_PORT": "9000", "HOME": "/home/ann"}

    settings = from_environment(without_providers(environ))

    assert list(settings.models) == ["llama"]
    assert isinstance(settings.models["llama"].targets[0], LocalTarget)
    assert settings.server.port == 9000


# How it ends


@pytest.mark.parametrize(
    ("args", "environ", "message"),
    [
        (["check", "--config", "absent.yaml"], {}, "error: absent.yaml cannot be read: No such file or directory\n"),
        (
            ["usage"],
            {"GATEWAY_CONFIG": "absent.yaml"},
            "error: absent.yaml cannot be read: No such file or directory\n",
        ),
        (["--demo", "--config", "x"], {}, "error: --demo needs no --config: leave one of them out\n"),
        ([], {"RUNPOD_API_KEY": "rpa_1"}, "error: RUNPOD_API_KEY is set and RUNPOD_ENDPOINT_ID is not"),
    ],
)
def test_a_wrong_start(
    start: Start, args: list[str], environ: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit status 1."""
    assert start(*args, **environ) == 1

    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith(message)


def test_every_mistake_in_the_file_has_its_line(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them at once."""
    (tmp_path / "gateway.yaml").write_text("models:\n  a: {targets: []}\nserver:\n  prot: 1\n")

    assert start("check") == 1

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: gateway.yaml line ") for line in lines)


def test_ctrl_c_before_anything_listens(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while a command is still being imported: the exit status that shells give, and no traceback."""

    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "serve", COMMANDS["serve"]._replace(run=interrupt))

    assert start() == 130


@pytest.mark.parametrize("port", ["http", "65536", "-1", "8e3"])
def test_a_wrong_port(start: Start, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Is found before anything starts."""
    with pytest.raises(SystemExit, match="2"):
        start("--port", port)

    assert "argument --port" in capsys.readouterr().err
