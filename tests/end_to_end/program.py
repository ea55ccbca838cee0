"""`python -m handler` as a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parent.parent.parent
PROGRAM = [sys.executable, "-m", "handler"]
PATIENCE = 120.0  # seconds until a test that waits fails


def environment(**settings: str) -> dict[str, str]:
    """Ours without the settings that it may have."""
    names = ("PATH", "HOME", "MODELS_DIR", "HF_ENDPOINT", "XDG_CACHE_HOME")
    return {name: os.environ[name] for name in names if name in os.environ} | settings


def run(*args: str, cwd: Path = ROOT, **settings: str) -> subprocess.CompletedProcess[str]:
    """To its end."""
    env = environment(PYTHONPATH=str(ROOT), **settings)
    return subprocess.run(
        [*PROGRAM, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Server:
    """A process that listens, and where it logs."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def get(self, path: str) -> requests.Response | None:
        """None while it does not listen."""
        try:
            return requests.get(self.url + path, timeout=PATIENCE)
        except requests.ConnectionError:
            return None

    def ping(self) -> int | None:
        response = self.get("/ping")
        return None if response is None else response.status_code

    def health(self) -> dict[str, Any]:
        """Of a server that is ready."""
        health: dict[str, Any] = requests.get(self.url + "/health", timeout=PATIENCE).json()
        return health

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Ask until it is so; fails if it does not become so, or if the process ends."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text(errors='replace')}"
            assert time.monotonic() < deadline, "it did not become so"
            time.sleep(0.02)

    def stop(self) -> int:
        """Its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


@contextmanager
def started(log: Path, *args: str, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """`{port}` in the arguments is a free port."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*PROGRAM, *(arg.format(port=port) for arg in args)],
            cwd=ROOT,
            env=environment(**(settings or {})),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Server(process, f"http://127.0.0.1:{port}", log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def serving(log: Path, **settings: str) -> Iterator[Server]:
    """A server that answers."""
    with started(log, "serve", "--port", "{port}", settings=settings) as server:
        server.wait_until(lambda: server.ping() == 200)
        yield server
