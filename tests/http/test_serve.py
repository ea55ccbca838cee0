"""What `serve` says when it is ready, and when it ends. How it serves is shown in test_http.py and end to end."""

import asyncio
import socket
from types import SimpleNamespace
from typing import cast

import pytest

from handler.api.routes import CHAT, Example
from handler.engine.engine import Engine
from handler.errors import EngineError
from handler.http.serve import greeting, listen, until_done_or_dead
from handler.settings import Settings
from handler.worker import Worker

NAMES = SimpleNamespace(names=("llama", "other"))
WORKER = cast(Worker, SimpleNamespace(api=SimpleNamespace(names=NAMES, example=Example(CHAT, {"messages": []}))))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8001/v1"),
        ("0.0.0.0", "http://127.0.0.1:8001/v1"),
        ("::", "http://[::1]:8001/v1"),
    ],
)
def test_the_greeting_has_an_address_that_works_from_here(host: str, url: str) -> None:
    """Who listens everywhere is not found at the address of everywhere."""
    assert f"curl {url}/chat/completions -H 'Content-Type" in greeting(Settings.from_env({"HOST": host}), WORKER)


def test_connections_send_at_once() -> None:
    """Head and body of an answer are two writes: the second does not wait for the first one's acknowledgement."""
    settings = Settings.from_env({}).model_copy(update={"port": 0})
    with listen(settings) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_greeting_does_not_show_the_key() -> None:
    """A terminal is no place for secrets."""
    text = greeting(Settings.from_env({"API_KEY": "secret"}), WORKER)
    assert "Bearer YOUR_API_KEY" in text
    assert "secret" not in text


async def test_a_worker_with_a_dead_engine_ends() -> None:
    """Nothing else would notice on a pod: a process that ends is started anew."""
    serving = asyncio.create_task(asyncio.Event().wait())
    with pytest.raises(EngineError, match="engine is dead"):
        await until_done_or_dead(cast(asyncio.Task[None], serving), cast(Engine, SimpleNamespace(is_healthy=False)))
    serving.cancel()


async def test_a_worker_that_was_stopped_just_ends() -> None:
    """The server is done when its last answer is."""
    serving = asyncio.create_task(asyncio.sleep(0))
    await until_done_or_dead(serving, cast(Engine, SimpleNamespace(is_healthy=True)))
