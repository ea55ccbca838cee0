"""The gateway's command line as a process: what it imports, and that its end is its worker's end."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.gateway.backends.test_die_with_parent import is_running
from tests.gateway.terminal import CTRL_C, ROOT, Terminal, in_terminal
from tests.tiny_models import Architecture
from tests.waiting import eventually

WORKER_PID = re.compile(r"started, process (\d+)")
HEAVY = ("openai", "rich", "requests", "runpod", "llama_cpp", "httpx2")


def run_process(*command: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """One clear line; no worker is started for nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_process("-m", "local_gateway", "--demo", "--port", port, cwd=tmp_path, GATEWAY_LOG_LEVEL="WARNING")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert port in done.stderr


def test_serve_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """Or it would listen a second later and hold twice the memory."""
    source = (
        "import sys, local_gateway.commands.cli, local_gateway.telemetry.logs, local_gateway.config.load\n"
        "import local_gateway.server.serve\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )

    done = run_process("-c", source, cwd=tmp_path)

    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    """`... schema | head -1` ends without a complaint."""
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m local_gateway schema | true"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert done.stderr == ""


# A gateway with a worker


@pytest.fixture
def gateway(tmp_path: Path, tiny_model_paths: Mapping[Architecture, Path]) -> Iterator[Terminal]:
    """In a terminal, with a worker of its own on a tiny model."""
    (tmp_path / "gateway.yaml").write_text(
        f"models: {{llama: {{targets: [{{type: local, gguf: {tiny_model_paths['llama']}}}]}}}}\nserver: {{port: 0}}\n"
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    with in_terminal([sys.executable, "-m", "local_gateway"], environ, tmp_path) as terminal:
        yield terminal


async def worker_pid(gateway: Terminal) -> int:
    await gateway.until("started, process")
    await eventually(lambda: WORKER_PID.search(gateway.read()) is not None)
    match = WORKER_PID.search(gateway.output)
    assert match is not None
    return int(match[1])


async def test_ctrl_c_ends_gateway_and_worker(gateway: Terminal) -> None:
    """In good order: exit status 0, no traceback, no process left."""
    pid = await worker_pid(gateway)
    await gateway.until(": ready", unless="it ended with")
    assert is_running(pid)

    gateway.type(CTRL_C)

    assert await gateway.end() == 0
    assert not is_running(pid)
    assert "Traceback" not in gateway.output
    assert "signal" not in gateway.output


async def test_ctrl_c_while_the_worker_starts(gateway: Terminal) -> None:
    """It is not waited for."""
    pid = await worker_pid(gateway)
    gateway.type(CTRL_C)

    assert await gateway.end() == 0
    assert not is_running(pid)
    assert "Traceback" not in gateway.output


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
async def test_a_gateway_that_is_killed_leaves_no_worker(gateway: Terminal) -> None:
    """kill -9, or a machine that is out of memory."""
    pid = await worker_pid(gateway)
    await gateway.until(": ready", unless="it ended with")

    gateway.process.kill()

    assert await gateway.end() == -signal.SIGKILL
    await eventually(lambda: not is_running(pid))
