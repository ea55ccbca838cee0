"""`python -m handler serve`: the HTTP edge on a socket, from the first /ping to the last answer."""

import asyncio
import json
import logging
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from uvicorn.config import Config
from uvicorn.server import Server

from handler.embedding.embedder import Embedder
from handler.engine.engine import Engine
from handler.errors import ConfigError, EngineError
from handler.http.edge import HttpEdge
from handler.http.limits import LimitedProtocol
from handler.settings import Settings
from handler.stopwatch import Stopwatch
from handler.worker import Worker

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two looks at the engine

Model = TypeVar("Model")  # loaded; only `start_worker` knows what it is


async def serve(
    settings: Settings, loading: Future[Model], start_worker: Callable[[Settings, Model], Worker], start: Stopwatch
) -> None:
    """Listen at once, answer when the model is loaded; on SIGTERM or SIGINT finish what runs, then return.

    Raises WorkerError if the address cannot be had, the model cannot be loaded, or the engine has died.
    """
    listener = listen(settings)
    edge = HttpEdge(settings)
    server = make_server(edge, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn takes them over, and raises them anew when it is done
    serving = asyncio.create_task(server.serve([listener]))
    loaded = asyncio.wrap_future(loading)
    either: set[asyncio.Future[Any]] = {serving, loaded}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    try:
        if loaded.done():
            start.lap("model")
            edge.worker = start_worker(settings, loaded.result())
            _announce(settings, edge.worker, start)
            await until_done_or_dead(serving, edge.worker.engine)
    finally:
        server.should_exit = True
        await serving
        if edge.worker is not None:
            edge.worker.engine.close()


def make_server(edge: HttpEdge, settings: Settings) -> Server:
    return Server(
        Config(
            edge.app,
            http=LimitedProtocol,
            timeout_graceful_shutdown=settings.drain_seconds,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=settings.log_level == "DEBUG",
            server_header=False,
        )
    )


def _announce(settings: Settings, worker: Worker, start: Stopwatch) -> None:
    start.lap("worker")
    log.info("ready after %s", start)
    sys.stdout.write(greeting(settings, worker))
    sys.stdout.flush()


async def until_done_or_dead(serving: asyncio.Task[None], engine: Engine | Embedder) -> None:
    """Raises EngineError for an engine that died: only a new process helps, which the supervisor of this one starts."""
    while not serving.done():
        await asyncio.wait({serving}, timeout=LOOK_SECONDS)
        if not engine.is_healthy:
            raise EngineError("The engine is dead, so this worker ends. Its log says what happened.")


def listen(settings: Settings) -> socket.socket:
    """Where uvicorn would print a traceback and exit by itself, this raises ConfigError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family)
        # Connections inherit it. asyncio sets it only where a socket says that it is TCP, which these do not, and then
        # the body of an answer waits 40 ms for the client's acknowledgement of its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        address = f"HOST={settings.host} PORT={settings.port}"
        raise ConfigError(f"Cannot listen with {address}: {error.strerror}.") from error
    log.info("listening at %s port %d", settings.host, settings.port)
    return listener


def greeting(settings: Settings, worker: Worker) -> str:
    """How to talk to it, as lines that can be pasted into a shell."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104  # shown, not bound
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/v1"
    name = worker.api.names.names[0]
    route, fields = worker.api.example
    body = {"model": name, **fields}
    key = " -H 'Authorization: Bearer YOUR_API_KEY'" if settings.api_key.get_secret_value() else ""
    path, data = route.removeprefix("/v1"), shlex.quote(json.dumps(body))
    return (
        f"Serving {name} at {url}. Try it:\n\n  curl {url}{path}{key} -H 'Content-Type: application/json' -d {data}\n\n"
    )
