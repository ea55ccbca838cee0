"""`python -m local_gateway` as a process of its own, on a free port, with a configuration and a folder of its own."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "local_gateway"]
PATIENCE = 60.0  # seconds until a test that waits fails
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
SECRET = re.compile(r"lg-[\w-]{43}")

Config = dict[str, Any]


@dataclass(eq=False)
class GatewayProcess:
    """What was started. Its log is all that it printed."""

    process: subprocess.Popen[bytes]
    url: str  # without /v1
    folder: Path

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def database(self) -> Path:
        return self.folder / "gateway.db"

    @property
    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    @property
    def peak_memory(self) -> int:
        """The most it ever had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def configure(self, config: Config) -> None:
        write_config(self.folder, config)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def started(folder: Path, config: Config, env: Mapping[str, str] | None = None) -> Iterator[GatewayProcess]:
    """A gateway that listens. `config` is gateway.yaml; what it does not say of port, database and log is ours."""
    write_config(folder, config)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--config", str(folder / "gateway.yaml")],
            cwd=folder,
            env=environment(folder, env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield GatewayProcess(process, wait_for_address(process, folder / "log"), folder)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@asynccontextmanager
async def running(folder: Path, config: Config, env: Mapping[str, str] | None = None) -> AsyncIterator[GatewayProcess]:
    """The same for coroutines: whatever the gateway asks while it starts is answered."""
    manager = started(folder, config, env)
    gateway = await asyncio.to_thread(manager.__enter__)
    try:
        yield gateway
    finally:
        manager.__exit__(None, None, None)


def write_config(folder: Path, config: Config) -> None:
    """YAML has all of JSON in it."""
    ours = {
        "server": {"port": 0, **config.get("server", {})},
        "database": {"url": f"sqlite:///{folder / 'gateway.db'}", **config.get("database", {})},
        "log": {"format": "json", **config.get("log", {})},
    }
    new = folder / "gateway.new"
    new.write_text(json.dumps({**config, **ours}))
    new.replace(folder / "gateway.yaml")


def environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without the settings that it may have."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), **(more or {})}


def wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while not (found := ADDRESS.search(log.read_text(errors="replace"))):
        assert process.poll() is None, f"the gateway ended:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"the gateway does not listen:\n{log.read_text()}"
        time.sleep(0.02)
    return found[0]


def command(folder: Path, *args: str) -> str:
    """What `python -m local_gateway ARGS` prints, with the same configuration."""
    done = subprocess.run(
        [*PROGRAM, *args, "--config", str(folder / "gateway.yaml")],
        cwd=folder,
        env=environment(folder, {"COLUMNS": "200"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def new_key(gateway: GatewayProcess, name: str, *limits: str) -> str:
    """The secret, when the running gateway knows it."""
    shown = command(gateway.folder, "keys", "create", name, *limits)
    found = SECRET.search(shown)
    assert found, shown
    deadline = time.monotonic() + PATIENCE
    while requests.get(f"{gateway.api}/models", headers=bearer(found[0]), timeout=PATIENCE).status_code == 401:
        assert time.monotonic() < deadline, "the gateway does not see the new key"
        time.sleep(0.05)
    return found[0]


async def create_key(gateway: GatewayProcess, name: str, *limits: str) -> str:
    """The same for coroutines: whatever the gateway asks meanwhile is answered."""
    return await asyncio.to_thread(new_key, gateway, name, *limits)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def rows(database: Path, statement: str) -> list[Any]:
    """What a gateway has written; nothing while there is no such table."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(statement).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "unable to open" in str(error):
            return []
        raise
