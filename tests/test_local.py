"""A job run on this machine: where it comes from, and what is printed of it."""

import json
from pathlib import Path

import pytest

from handler.errors import ConfigError, DecodeError
from handler.job import make_handler
from handler.job_run import Job
from handler.local import read_job, run_job
from tests.fake_worker import events, fake_worker


def job_of(text: str, path: Path) -> Job:
    """As given on the command line, or in a file: the same either way."""
    path.write_text(text)
    given, read = read_job(text, Path("/nowhere")), read_job(None, path)
    assert given == read
    return given


def test_job_gets_an_id(tmp_path: Path) -> None:
    """RunPod's examples have none; one that is there stays."""
    assert job_of('{"input": {"prompt": "Hi"}}', tmp_path / "job") == {"id": "local_test", "input": {"prompt": "Hi"}}
    assert job_of('{"input": {}, "id": "7"}', tmp_path / "job") == {"id": "7", "input": {}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "The test job is not JSON: "),
        ("", "The test job is not JSON: "),
        (100_000 * "[", "The test job is not JSON: "),
        ("[]", 'The test job must be a JSON object with an "input".'),
        ("{}", 'The test job must be a JSON object with an "input".'),
        ('{"input": null}', 'The test job must be a JSON object with an "input".'),
    ],
    ids=["cut off", "empty", "deep", "list", "no input", "null input"],
)
def test_wrong_job(text: str, reason: str, tmp_path: Path) -> None:
    """What cannot be run is told in one line."""
    with pytest.raises(ConfigError) as caught:
        job_of(text, tmp_path / "job")

    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_no_job(tmp_path: Path) -> None:
    """There is neither a file nor an option."""
    with pytest.raises(ConfigError) as caught:
        read_job(None, tmp_path / "test_input.json")

    assert str(caught.value) == (
        f"There is no job to run: No such file or directory: {tmp_path}/test_input.json, and no --test_input."
    )


async def test_prints_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """What a client would get, so that a person can read it."""
    with fake_worker({"Zürich": "!"}) as worker:
        exit_code = await run_job(make_handler(worker.api), {"input": {"prompt": "Zürich", "echo": True}})

    printed = capsys.readouterr().out
    assert exit_code == 0
    assert json.loads(printed)["choices"][0]["text"] == "Zürich!"
    assert "Zürich" in printed


async def test_prints_a_stream(capsys: pytest.CaptureFixture[str]) -> None:
    """The events, as they come."""
    with fake_worker() as worker:
        exit_code = await run_job(make_handler(worker.api), {"input": {"prompt": "Once", "stream": True}})

    texts = [event["choices"][0]["text"] for event in events(capsys.readouterr().out)]
    assert exit_code == 0
    assert "".join(texts) == " upon a time"


async def test_error_is_printed_and_the_exit_code_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object in one line."""
    with fake_worker() as worker:
        exit_code = await run_job(make_handler(worker.api), {"input": {"messages": "x"}})

    assert exit_code == 1
    assert json.loads(capsys.readouterr().out) == {
        "error": {
            "message": "'messages' must be a list (got \"x\")",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "invalid_request_error",
        },
        "status": 400,
    }


async def test_error_within_a_stream_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """However much has been printed before."""
    with fake_worker() as worker:
        worker.runner.failures += [None, None, DecodeError("llama_decode returned -3.")]
        exit_code = await run_job(make_handler(worker.api), {"input": {"prompt": "Once", "stream": True}})

    assert exit_code == 1
    assert events(capsys.readouterr().out)[-1]["error"]["code"] == "engine_error"
