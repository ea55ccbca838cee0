"""The command line with a model that is loaded: jobs from test_input.json, and starts that fail after it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.command_line import Start, assert_one_line_of_error, job
from tests.tiny_models import Architecture

WRONG_STARTS: dict[str, tuple[dict[str, str], str]] = {
    "no such model": (
        {"MODEL": "{dir}/absent.gguf"},
        "MODEL={dir}/absent.gguf: there is no such file. Check the path, or that the volume with it is mounted.",
    ),
    "broken chat template": (
        {"MODEL": "{dir}/tiny.gguf", "CHAT_TEMPLATE": "{% for %}"},
        "CHAT_TEMPLATE cannot be used: the chat template does not compile: ",
    ),
    "no chat template": (
        {"MODEL": "{dir}/tiny.gguf", "CHAT_TEMPLATE": "{dir}/absent.jinja"},
        "CHAT_TEMPLATE cannot be used: [Errno 2] No such file or directory: '{dir}/absent.jinja'",
    ),
}


@pytest.mark.parametrize("case", WRONG_STARTS.values(), ids=WRONG_STARTS)
def test_wrong_start(
    start: Start, here: Callable[[str], str], capsys: pytest.CaptureFixture[str], case: tuple[dict[str, str], str]
) -> None:
    """Exit code 1 and one line that names the cause."""
    environ, message = case
    exit_code = start("--test_input", job(prompt="Hi"), **{name: here(value) for name, value in environ.items()})

    assert exit_code == 1
    assert_one_line_of_error(capsys, here(message))


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
