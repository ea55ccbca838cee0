"""This worker and its peers as processes: the same model, the same cache, the same number of chats at once."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SERVER_PACKAGES = ("sse_starlette", "starlette_context")  # what llama_cpp.server imports beyond what we have
PATIENCE = 180.0  # seconds until a server that does not answer is given up
WORKER, LLAMA_SERVER, LLAMA_CPP_PYTHON = "this worker", "llama-server", "llama-cpp-python"


class Load(NamedTuple):
    """What all servers are started with."""

    model: Path
    n_ctx: int
    concurrency: int
    threads: int
    folder: Path  # of llama.cpp's programs, if they are not in PATH
    logs: Path


@dataclass
class Server:
    name: str
    url: str
    process: subprocess.Popen[bytes]

    @property
    def peak_megabytes(self) -> float:
        """The most main memory the process has held; the model's pages are in it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        return int(lines["VmHWM"].split()[0]) / 1000


class NotHereError(Exception):
    """Why a peer cannot be started on this machine."""


def program(name: str, folder: Path) -> str:
    """Where one of llama.cpp's programs is. Raises NotHereError."""
    found = shutil.which(name, path=f"{folder}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise NotHereError(f"{name} is neither in PATH nor in {folder}; benchmarks/peers.sh compiles it")
    return found


def command(name: str, load: Load, port: int) -> tuple[list[str], dict[str, str]]:
    """What starts a server, and its environment beside ours. Raises NotHereError."""
    if name == WORKER:
        settings = {
            "MODEL": str(load.model),
            "N_CTX": str(load.n_ctx),
            "MAX_NUM_SEQS": str(load.concurrency),
            "N_THREADS": str(load.threads),
            "MAX_QUEUE": "1000",
            "LOG_LEVEL": "WARNING",
        }
        return [sys.executable, "-m", "handler", "serve", "--port", str(port)], settings
    if name == LLAMA_SERVER:
        options = {"-m": load.model, "-c": load.n_ctx, "-np": load.concurrency, "-t": load.threads, "-ngl": 999}
        given = [str(part) for option in options.items() for part in option]
        return [program(name, load.folder), *given, "-kvu", "--port", str(port)], {}
    if missing := [
        package for package in ("sse_starlette", "starlette_context") if not importlib.util.find_spec(package)
    ]:
        raise NotHereError(f"llama_cpp.server needs {' and '.join(missing)}, which are not installed")
    options = {"--model": load.model, "--n_ctx": load.n_ctx, "--n_threads": load.threads, "--n_gpu_layers": -1}
    given = [str(part) for option in options.items() for part in option]
    return [sys.executable, "-m", "llama_cpp.server", *given, "--port", str(port)], {}


@contextmanager
def running(name: str, load: Load) -> Iterator[Server]:
    """A server that answers. Raises NotHereError."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments, environment = command(name, load, port)
    log = load.logs / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        server = Server(name, f"http://127.0.0.1:{port}", process)
        _wait(server, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Server, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    path = "/v1/models" if server.name == LLAMA_CPP_PYTHON else "/health"
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(server.url + path, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise NotHereError(f"{server.name} did not start: {log.read_text(errors='replace')[-500:]}")
