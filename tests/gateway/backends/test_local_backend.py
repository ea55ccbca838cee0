"""A worker that the gateway starts by itself: a small one in the place of the real one, in a real process."""

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from handler.settings import names_of
from local_gateway.backends.base import Call
from local_gateway.backends.http import HttpClient
from local_gateway.backends.local import backend as local_backend
from local_gateway.backends.local import supervisor
from local_gateway.backends.local.backend import TOLD, LocalBackend, environment, without_model
from local_gateway.config.settings import LocalTarget, TimeoutSettings
from local_gateway.errors import TargetError
from tests.gateway.backends.test_die_with_parent import is_running
from tests.waiting import eventually

CHAT = Call(path="/chat/completions", body=b'{"model":"alias","messages":[]}')

# Answers like `python -m handler serve`: /ping, and for a call what it has got. It dies when asked to at /v1/die.
WORKER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(b"")

    def do_POST(self):
        if self.path == "/v1/die":
            os._exit(7)
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        got = {"path": self.path, "key": self.headers["authorization"], "body": json.loads(body), "pid": os.getpid()}
        got["environ"] = dict(os.environ)
        self.reply(json.dumps(got).encode())

    def reply(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
print("2026-11-22 16:00:00,123 WARNING worker: it is getting warm", file=sys.stderr, flush=True)
print("Traceback and other things", file=sys.stderr, flush=True)
server.serve_forever()
"""


@pytest.fixture(autouse=True)
def _small_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_backend, "WORKER", (sys.executable, "-c", WORKER))


@asynccontextmanager
async def backend_of(**settings: Any) -> AsyncIterator[LocalBackend]:
    http = HttpClient(TimeoutSettings())
    backend = LocalBackend(LocalTarget(type="local", **settings), http)
    try:
        yield backend
    finally:
        await backend.aclose()
        await http.aclose()


async def ask(backend: LocalBackend, call: Call = CHAT) -> dict[str, Any]:
    """What the worker got."""
    upstream = await backend.open(call)
    try:
        got: dict[str, Any] = json.loads(await upstream.read())
    finally:
        await upstream.aclose()
    return got


async def test_the_first_call_waits_for_the_worker() -> None:
    """It is started, asked with its own key, and told without a name which of its one models is meant."""
    async with backend_of() as backend:
        got = await ask(backend)

        assert (got["path"], got["body"]) == ("/v1/chat/completions", {"messages": []})
        assert got["key"] == f"Bearer {got['environ']['API_KEY']}"
        assert len(got["environ"]["API_KEY"]) > 30
        assert (await ask(backend))["pid"] == got["pid"]


async def test_a_model_with_a_name_of_its_own() -> None:
    """The call has the name already: it goes on byte for byte, and the worker knows it."""
    async with backend_of(model="own") as backend:
        got = await ask(backend)

    assert got["body"] == {"model": "alias", "messages": []}
    assert got["environ"]["MODEL_ALIAS"] == "own"


async def test_a_crash_is_survived() -> None:
    """The call that met it fails, as it may have been its cause; the next one is answered by a new process."""
    async with backend_of() as backend:
        first = await ask(backend)
        with pytest.raises(TargetError):
            await ask(backend, Call(path="/die", body=b"{}"))
        await eventually(lambda: not backend._supervisor.is_ready)

        assert (await ask(backend))["pid"] != first["pid"]


async def test_killed_from_outside() -> None:
    """As by a machine that is out of memory."""
    async with backend_of() as backend:
        first = await ask(backend)
        os.kill(first["pid"], signal.SIGKILL)
        await eventually(lambda: not backend._supervisor.is_ready)

        assert (await ask(backend))["pid"] != first["pid"]


async def test_a_worker_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs and answers nothing: it is killed, and a call that waits for it meanwhile goes to the next one."""
    for name, seconds in {"WATCH_SECONDS": 0.01, "MISSED_SECONDS": 0.01, "GRACE": 0.01, "FIRST_PAUSE": 0.01}.items():
        monkeypatch.setattr(supervisor, name, seconds)
    monkeypatch.setattr(local_backend, "HEALTH_TIMEOUT", 0.2)
    async with backend_of() as backend:
        hanging = (await ask(backend))["pid"]
        os.kill(hanging, signal.SIGSTOP)
        await eventually(lambda: not is_running(hanging))

        assert (await ask(backend))["pid"] != hanging


async def test_closing_ends_it() -> None:
    """No process is left."""
    async with backend_of() as backend:
        pid = (await ask(backend))["pid"]
        await backend.aclose()

        assert not is_running(pid)
        with pytest.raises(TargetError):
            await ask(backend)


async def test_a_worker_that_cannot_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The log and `check` say why; a client, which may be a stranger, is not told the paths of this machine."""
    source = "import sys; sys.exit('error: MODEL=/secret/model.gguf: there is no such file.')"
    monkeypatch.setattr(local_backend, "WORKER", (sys.executable, "-c", source))
    async with backend_of() as backend:
        with pytest.raises(TargetError, match=r"^The worker on this machine cannot be started\. The gateway's log"):
            await ask(backend)

        health = await backend.health()

    reason = "it ended with status 1: MODEL=/secret/model.gguf: there is no such file."
    assert (health.is_ok, health.detail) == (False, reason)
    assert (
        "local_gateway.backends.local.supervisor",
        logging.ERROR,
        f"worker demo: {reason}",
    ) in caplog.record_tuples


@pytest.mark.parametrize(
    "source",
    [
        "import time; time.sleep(600)",
        "import socket, time; s = socket.create_server(('127.0.0.1', 0)); time.sleep(600)",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
    ],
    ids=["nowhere", "at another port", "not to SIGTERM either"],
)
async def test_a_worker_that_never_listens(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, and its port stays closed: it is stopped in time, the reason is told, and another is started."""
    monkeypatch.setattr(supervisor, "GRACE", 0.2)
    monkeypatch.setattr(local_backend, "WORKER", (sys.executable, "-c", source))
    async with backend_of(listen_timeout="300ms") as backend:
        with pytest.raises(TargetError, match="cannot be started"):
            await ask(backend)
        health = await backend.health()
        monkeypatch.setattr(local_backend, "WORKER", (sys.executable, "-c", WORKER))
        backend._supervisor._listen_seconds = 60.0
        await eventually(lambda: backend._supervisor.is_ready)

        assert (await ask(backend))["path"] == "/v1/chat/completions"

    assert health.detail.startswith("it does not listen within 0.3 s: it ended with signal ")


async def test_a_port_that_another_program_has() -> None:
    """The program that listens there is not taken for the worker."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with backend_of(port=taken.getsockname()[1]) as backend:
            with pytest.raises(TargetError):
                await ask(backend)

            assert "cannot be started: Address already in use" in (await backend.health()).detail


async def test_its_log_is_ours(caplog: pytest.LogCaptureFixture) -> None:
    """At the level that it says, without its time; lines of any other kind too."""
    caplog.set_level(logging.INFO)
    async with backend_of(name="mine") as backend:
        await ask(backend)
        await backend.aclose()

    lines = [record[1:] for record in caplog.record_tuples if record[0] == local_backend.log.name]
    assert (logging.WARNING, "worker mine: worker: it is getting warm") in lines
    assert (logging.INFO, "worker mine: Traceback and other things") in lines


async def test_health() -> None:
    """Asking starts nothing; it follows the worker from its start to its end."""
    async with backend_of() as backend:
        before = await backend.health()
        backend.start()
        starting = await backend.health()
        await ask(backend)
        ready = await backend.health()
        await backend.aclose()
        after = await backend.health()

    assert (before.is_ok, before.num_ready_workers, before.detail) == (True, 0, "starts with the gateway")
    assert (starting.is_ok, starting.num_ready_workers, starting.num_starting_workers) == (True, 0, 1)
    assert (ready.is_ok, ready.num_ready_workers, ready.num_starting_workers) == (True, 1, 0)
    assert (after.is_ok, after.detail) == (False, "it has been stopped")


def test_what_the_worker_is_told() -> None:
    """Settings for workers pass; the gateway's own do not, nor a second name for what we say ourselves."""
    ours = {"PATH": "/bin", "N_CTX": "4096", "OPENAI_API_KEY": "secret", "GATEWAY_PORT": "80", "MODEL_NAME": "other"}
    settings = LocalTarget(type="local", gguf="org/name:Q4", env={"N_CTX": "8192", "PORT": "1"})

    assert environment(settings, ours, 9000, "key") == {
        "PATH": "/bin", "N_CTX": "8192", "MODEL": "org/name:Q4", "HOST": "127.0.0.1", "PORT": "9000", "API_KEY": "key",
    }  # fmt: skip


def test_the_worker_knows_no_other_names() -> None:
    """For what we tell it; else it would find two values and not know which is meant."""
    assert {name for key in ("model", "model_alias", "host", "port", "api_key") for name in names_of(key)} == TOLD


@pytest.mark.parametrize("body", [b"", b"[1]", b"no json"])
def test_other_bodies_go_as_they_are(body: bytes) -> None:
    """The worker says what is wrong with them."""
    assert without_model(Call(path="/x", body=body)).body == body


def test_the_worker_is_where_we_are() -> None:
    """Its package comes along with ours."""
    assert (Path(local_backend.__file__).parents[3] / "handler" / "__main__.py").exists()
