"""`python -m handler` as people and platforms start and stop it."""

import json
import socket
from pathlib import Path

import pytest
import requests

from tests.end_to_end.program import PATIENCE, ROOT, run, serving, started
from tests.fake_worker import chat_chunks

pytestmark = pytest.mark.model

STORY = {"messages": [{"role": "user", "content": "Tell me a long story about a llama."}], "ignore_eos": True}


def test_runs_test_input() -> None:
    """Outside of RunPod, and prints what a client would get."""
    result = run()

    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_wrong_job_is_one_error() -> None:
    """In OpenAI's shape, with exit code 1 and no traceback."""
    result = run("--test_input", '{"input": {"messages": "x"}}')

    assert result.returncode == 1
    assert json.loads(result.stdout)["error"]["param"] == "messages"
    assert "Traceback" not in result.stderr


def test_runpods_local_api(tmp_path: Path) -> None:
    """The SDK serves /runsync with our handler."""
    job = {"input": {"prompt": "1, 2, 3, 4,", "sampling_params": {"max_tokens": 3, "temperature": 0}}}
    with started(tmp_path / "log", "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", "{port}") as server:
        server.wait_until(lambda: server.get("/") is not None)
        answer = requests.post(f"{server.url}/runsync", json=job, timeout=PATIENCE).json()

    assert answer["status"] == "COMPLETED"
    assert answer["output"][0]["choices"][0]["text"].startswith(" 5")


def test_what_runs_is_finished_before_it_stops(tmp_path: Path) -> None:
    """SIGTERM within a stream: it goes on to its end, and the exit code is 0."""
    with serving(tmp_path / "log") as server:
        body = STORY | {"max_tokens": 16, "stream": True}
        with requests.post(f"{server.url}/v1/chat/completions", json=body, stream=True, timeout=PATIENCE) as response:
            parts = response.iter_content(chunk_size=None, decode_unicode=True)
            first = next(parts)
            server.process.terminate()
            chunks = chat_chunks([first, *parts])

        assert chunks[-1].choices[0].finish_reason == "length"
        assert server.process.wait(PATIENCE) == 0, server.log.read_text()


def test_what_takes_too_long_is_cut_off(tmp_path: Path) -> None:
    """A stream without end does not keep the process: after DRAIN_SECONDS it is gone, with exit code 0."""
    with serving(tmp_path / "log", DRAIN_SECONDS="1") as server:
        body = STORY | {"stream": True}
        with requests.post(f"{server.url}/v1/chat/completions", json=body, stream=True, timeout=PATIENCE) as response:
            next(response.iter_content(chunk_size=None))

            assert server.stop() == 0, server.log.read_text()


def test_stops_while_the_model_loads(tmp_path: Path) -> None:
    """At once, though llama.cpp is in the middle of it."""
    with started(tmp_path / "log", "serve", "--port", "{port}") as server:
        server.wait_until(lambda: server.ping() in (200, 204))

        assert server.stop() == 0, server.log.read_text()


def test_stops_while_the_model_is_downloaded(tmp_path: Path) -> None:
    """However slow the other side is; /ping says meanwhile that it loads."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        model = f"http://127.0.0.1:{silent.getsockname()[1]}/model.gguf"
        settings = {"MODEL": model, "MODELS_DIR": str(tmp_path)}
        with started(tmp_path / "log", "serve", "--port", "{port}", settings=settings) as server:
            server.wait_until(lambda: server.ping() is not None)

            assert server.ping() == 204
            assert server.stop() == 0, server.log.read_text()


def test_port_in_use() -> None:
    """Said in one line, with exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", str(port), LOG_LEVEL="ERROR")

    assert result.returncode == 1
    assert result.stderr.startswith(f"error: Cannot listen with HOST=127.0.0.1 PORT={port}: Address already in use")
    assert result.stderr.count("\n") == 1


def test_the_demo_job_is_the_one_of_the_readme() -> None:
    """What `python -m handler` runs is a job as RunPod's OpenAI address makes them."""
    job = json.loads((ROOT / "test_input.json").read_text())

    assert job["input"]["openai_route"] == "/v1/chat/completions"
