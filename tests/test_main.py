"""The command line before any model is loaded: what is printed, and how each wrong start ends in one line."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.command_line import Start, assert_one_line_of_error
from tests.tiny_models import Architecture


def test_no_level_logs_whole_addresses(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's URL may have a signature for its query, and urllib3 logs it at DEBUG."""
    requests_log = logging.getLogger("urllib3")
    monkeypatch.setattr(requests_log, "level", logging.NOTSET)
    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)

    assert start("fetch", LOG_LEVEL="DEBUG", MODEL="missing.gguf") == 1

    assert not logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.DEBUG)
    requests_log.manager._clear_cache()  # type: ignore[attr-defined]  # the levels are put back behind its back


WRONG_STARTS: dict[str, tuple[list[str], dict[str, str], str]] = {
    "wrong setting": (
        ["serve"],
        {"PORT": "http"},
        "PORT has value 'http': Input should be a valid integer, unable to parse string as an integer",
    ),
    "wrong option": (["serve", "--port", "0"], {}, "PORT has value '0': Input should be greater than or equal to 1"),
    "option before environment": (
        ["serve", "--port", "x"],
        {"PORT": "8001"},
        "PORT has value 'x': Input should be a valid integer, unable to parse string as an integer",
    ),
    "no such file": (
        ["fetch", "--model", "{dir}/absent.gguf"],
        {},
        "MODEL={dir}/absent.gguf: there is no such file. Check the path, or that the volume with it is mounted.",
    ),
    "directory": (
        ["fetch"],
        {"MODEL": "{dir}"},
        "MODEL={dir} is a directory: name a .gguf file in it.",
    ),
    "truncated file": (
        ["fetch"],
        {"MODEL": "{dir}/cut.gguf"},
        "{dir}/cut.gguf has a truncated or damaged header (1,000 bytes in all). "
        "Put a good one in its place, or delete it to have it downloaded.",
    ),
    "no model at all": (
        ["fetch"],
        {"MODEL": "{dir}/cut.gguf/model.gguf"},
        "MODEL={dir}/cut.gguf/model.gguf: there is no such file. Check the path, or that the volume with it is "
        "mounted.",
    ),
    "cache that cannot be written to": (
        ["fetch"],
        {"MODEL": "http://127.0.0.1:9/model.gguf", "MODELS_DIR": "{dir}/cut.gguf"},
        "Cannot write to {dir}/cut.gguf/urls/",
    ),
    "no job": (
        [],
        {"MODEL": "{dir}/absent.gguf"},
        "There is no job to run: No such file or directory: test_input.json, and no --test_input.",
    ),
    "wrong job": (
        ["--test_input", "[]"],
        {"MODEL": "{dir}/absent.gguf"},
        'The test job must be a JSON object with an "input".',
    ),
}


@pytest.mark.parametrize("case", WRONG_STARTS.values(), ids=WRONG_STARTS)
def test_wrong_start(
    start: Start,
    here: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
    case: tuple[list[str], dict[str, str], str],
) -> None:
    """Exit code 1 and one line that names the cause."""
    args, environ, message = case
    exit_code = start(*map(here, args), **{name: here(value) for name, value in environ.items()})

    assert exit_code == 1
    assert_one_line_of_error(capsys, here(message))


def test_fetch_prints_the_path(
    start: Start, tiny_model_paths: Mapping[Architecture, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a script can use it; an option goes before the environment."""
    assert start("fetch", "--model", str(tiny_model_paths["llama"]), MODEL="/absent.gguf") == 0
    assert capsys.readouterr().out == f"{tiny_model_paths['llama']}\n"


@pytest.mark.parametrize("args", [["serve", "--unknown"], ["fetch", "extra"]])
def test_unknown_option(start: Start, args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Where all options are ours, a wrong one is told; a worker leaves the others to the SDK."""
    with pytest.raises(SystemExit) as caught:
        start(*args)

    assert caught.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err
