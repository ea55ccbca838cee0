"""`python -m handler serve`: the HTTP edge on a socket, from the first /ping to the last answer."""

import asyncio
import json
import logging
import shlex
import signal
import sys
from concurrent.futures import Future
from typing import Any

import uvicorn

from handler.engine.model_runner import ModelRunner
from handler.http import HttpEdge
from handler.settings import Settings
from handler.worker import Worker, start_worker

log = logging.getLogger(__name__)


async def serve(settings: Settings, loading: Future[ModelRunner]) -> None:
    """Listen at once, answer when the model is loaded; on SIGTERM or SIGINT finish what runs, then return.

    Raises WorkerError if the model cannot be loaded.
    """
    edge = HttpEdge(settings)
    server = uvicorn.Server(
        uvicorn.Config(
            edge.app,
            host=settings.host,
            port=settings.port,
            timeout_graceful_shutdown=settings.drain_seconds,
            lifespan="off",
            log_config=None,
            access_log=settings.log_level == "DEBUG",
            server_header=False,
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn takes them over, and raises them anew when it is done
    serving = asyncio.create_task(server.serve())
    loaded = asyncio.wrap_future(loading)
    either: set[asyncio.Future[Any]] = {serving, loaded}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    try:
        if loaded.done():
            edge.worker = start_worker(settings, loaded.result())
            sys.stdout.write(greeting(settings, edge.worker))
            sys.stdout.flush()
    except BaseException:
        server.should_exit = True
        raise
    finally:
        await serving
        if edge.worker is not None:
            edge.worker.engine.close()


def greeting(settings: Settings, worker: Worker) -> str:
    """How to talk to it, as lines that can be pasted into a shell."""
    url = f"http://{settings.host}:{settings.port}/v1"
    name = worker.api.names.names[0]
    body = {"model": name, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    key = " -H 'Authorization: Bearer YOUR_API_KEY'" if settings.api_key.get_secret_value() else ""
    return (
        f"Serving {name} at {url}. Try it:\n\n"
        f"  curl {url}/chat/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}\n\n"
    )
