"""The command line: what starts, what is printed, and how each wrong start ends in one line."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from handler.__main__ import main
from handler.settings import Settings, names_of
from tests.tiny_models import Architecture

Start = Callable[..., int]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    """`python -m handler` in an empty directory with nothing set but what is given."""
    monkeypatch.chdir(tmp_path)
    for setting in Settings.model_fields:
        for name in names_of(setting):
            monkeypatch.delenv(name, raising=False)

    def start(*args: str, **environ: str) -> int:
        monkeypatch.setattr("sys.argv", ["handler", *args])
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return main()

    return start


def test_no_level_logs_whole_addresses(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's URL may have a signature for its query, and urllib3 logs it at DEBUG."""
    requests_log = logging.getLogger("urllib3")
    monkeypatch.setattr(requests_log, "level", logging.NOTSET)
    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)

    assert start("fetch", LOG_LEVEL="DEBUG", MODEL="missing.gguf") == 1

    assert not logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.DEBUG)
    requests_log.manager._clear_cache()  # type: ignore[attr-defined]  # the levels are put back behind its back


def job(**fields: object) -> str:
    return json.dumps({"input": fields})


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
    "job without its model": (
        ["--test_input", job(prompt="Hi")],
        {"MODEL": "{dir}/absent.gguf"},
        "MODEL={dir}/absent.gguf: there is no such file. Check the path, or that the volume with it is mounted.",
    ),
    "broken chat template": (
        ["--test_input", job(prompt="Hi")],
        {"MODEL": "{dir}/tiny.gguf", "CHAT_TEMPLATE": "{% for %}"},
        "CHAT_TEMPLATE cannot be used: the chat template does not compile: ",
    ),
    "no chat template": (
        ["--test_input", job(prompt="Hi")],
        {"MODEL": "{dir}/tiny.gguf", "CHAT_TEMPLATE": "{dir}/absent.jinja"},
        "CHAT_TEMPLATE cannot be used: [Errno 2] No such file or directory: '{dir}/absent.jinja'",
    ),
}


@pytest.fixture
def here(tmp_path: Path, tiny_model_paths: Mapping[Architecture, Path]) -> Callable[[str], str]:
    """Puts the path of a directory with a good and a bad model in the place of `{dir}`."""
    (tmp_path / "tiny.gguf").symlink_to(tiny_model_paths["llama"])
    (tmp_path / "cut.gguf").write_bytes(tiny_model_paths["llama"].read_bytes()[:1000])
    return lambda text: text.replace("{dir}", str(tmp_path))


@pytest.mark.parametrize("case", WRONG_STARTS.values(), ids=WRONG_STARTS)
def test_wrong_start(
    start: Start,
    here: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
    case: tuple[list[str], dict[str, str], str],
) -> None:
    """Exit code 1 and one line that names the cause."""
    args, environ, message = case

    assert start(*map(here, args), **{name: here(value) for name, value in environ.items()}) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {here(message)}")
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_fetch_prints_the_path(
    start: Start, tiny_model_paths: Mapping[Architecture, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a script can use it; an option goes before the environment."""
    assert start("fetch", "--model", str(tiny_model_paths["llama"]), MODEL="/absent.gguf") == 0
    assert capsys.readouterr().out == f"{tiny_model_paths['llama']}\n"


def test_runs_a_job(
    start: Start, tmp_path: Path, tiny_model_paths: Mapping[Architecture, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """From test_input.json or from the command line, on a real engine; a failed one gives exit code 1."""
    model = str(tiny_model_paths["llama"])
    (tmp_path / "test_input.json").write_text(job(prompt="Hi", max_tokens=3, temperature=0))
    from_file = start(MODEL=model)
    from_option = start("--test_input", job(prompt="Hi", max_tokens=3, temperature=0))
    failed = start("--test_input", job(prompt="Hi", temperature=5))

    assert (from_file, from_option, failed) == (0, 0, 1)
    printed = capsys.readouterr().out
    first, rest = json.JSONDecoder().raw_decode(printed)
    assert first["usage"]["completion_tokens"] <= 3
    assert rest < len(printed)
    assert '"param": "temperature"' in printed.splitlines()[-1]


@pytest.mark.parametrize("args", [["serve", "--unknown"], ["fetch", "extra"]])
def test_unknown_option(start: Start, args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Where all options are ours, a wrong one is told; a worker leaves the others to the SDK."""
    with pytest.raises(SystemExit) as caught:
        start(*args)

    assert caught.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err
