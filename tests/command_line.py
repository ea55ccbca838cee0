"""The worker's command line in this process: a fixture that starts it, a directory of models for it, and a check."""

import json
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


@pytest.fixture
def here(tmp_path: Path, tiny_model_paths: Mapping[Architecture, Path]) -> Callable[[str], str]:
    """Puts the path of a directory with a good and a bad model in the place of `{dir}`."""
    (tmp_path / "tiny.gguf").symlink_to(tiny_model_paths["llama"])
    (tmp_path / "cut.gguf").write_bytes(tiny_model_paths["llama"].read_bytes()[:1000])
    return lambda text: text.replace("{dir}", str(tmp_path))


def job(**fields: object) -> str:
    """A job with these fields as its input."""
    return json.dumps({"input": fields})


def assert_one_line_of_error(capsys: pytest.CaptureFixture[str], message: str) -> None:
    """The command printed one `error:` line that begins with the message, and nothing else."""
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1
    assert not printed.out
