"""`headers` of a target go with every call to it, whatever its type."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from local_gateway.backends.base import Backend, Call
from local_gateway.backends.http import HttpClient
from local_gateway.config.settings import Target
from local_gateway.errors import RequestError
from local_gateway.gateway import backend_for
from tests.gateway.targets.on_socket import Exchange, reply, target_and_client

SETTINGS: TypeAdapter[Target] = TypeAdapter(Target)
CALL = Call(path="/chat/completions", body=b'{"model": "m"}')
RUNPOD = {"endpoint_id": "ep", "api_key": "rp-key"}


def backend_of(url: str, http: HttpClient, **settings: Any) -> Backend:
    return backend_for(SETTINGS.validate_python({"base_url": url, "headers": {"X-Team": "ours"}, **settings}), http)


async def answer(exchange: Exchange) -> None:
    """A job that is completed at once, a list, an answer: whatever was asked for."""
    job = {"id": "j", "status": "COMPLETED", "output": [{"ok": 1}], "stream": [], "data": []}
    await exchange.send(reply(200, job))


@pytest.mark.parametrize(
    ("settings", "num_calls"),
    [
        ({"type": "openai"}, 2),
        ({"type": "runpod_queue", **RUNPOD}, 4),
        ({"type": "runpod_queue", "api": "openai", **RUNPOD}, 2),
        ({"type": "runpod_lb", **RUNPOD}, 2),
    ],
    ids=["openai", "queue", "queue's other way", "load balancer"],
)
async def test_every_call(settings: dict[str, Any], num_calls: int) -> None:
    """Requests, polls of a job, questions about its health."""
    async with target_and_client(answer) as (target, http):
        backend = backend_of(target.url, http, **settings)
        try:
            upstream = await backend.open(CALL)
            await upstream.aclose()
        except RequestError:
            pass  # what is answered does not matter here
        await backend.health()
        await backend.aclose()

    assert len(target.exchanges) >= num_calls
    assert {exchange.headers.get("x-team") for exchange in target.exchanges} == {"ours"}
