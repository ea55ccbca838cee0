"""Both kinds of RunPod endpoints with real workers: they answer, are told to stop, and die."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from local_gateway.backends.base import Backend, Call
from local_gateway.backends.http import HttpClient
from local_gateway.backends.runpod.load_balancer import RunpodLbBackend
from local_gateway.backends.runpod.queue import RunpodQueueBackend
from local_gateway.config.settings import RunpodLbTarget, TimeoutSettings
from local_gateway.errors import TargetUnreachableError
from tests.contract.stage import MANY, ODD_WORKER, Model, Stage, parse_events, stage
from tests.gateway.played_endpoint import piece_of, read, target_settings
from tests.tiny_models import write_tiny_model

SLOW = {"ODD_STEP_SECONDS": "0.02", "ODD_TRACE": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Speaks noise, quickly."""
    folder: Path = tmp_path_factory.mktemp("model")
    return Model(write_tiny_model(folder / "tiny.gguf", "llama", context_length=4096), folder)


@asynccontextmanager
async def endpoint(kind: str, model: Model) -> AsyncIterator[tuple[Stage, Backend]]:
    http = HttpClient(TimeoutSettings())
    is_queue = kind == "queue"
    command = ODD_WORKER if is_queue else (*ODD_WORKER, "serve")
    async with stage(model, kind=kind, command=command, env=SLOW) as here:
        backend: Backend
        if is_queue:
            backend = RunpodQueueBackend(target_settings(here.emulator), http)
        else:
            base_url = f"{here.emulator.url}/lb/ep/v1"
            key = here.emulator.settings.client_key
            settings = RunpodLbTarget(type="runpod_lb", endpoint_id="ep", api_key=key, base_url=base_url)
            backend = RunpodLbBackend(settings, http)
        try:
            yield here, backend
        finally:
            await backend.aclose()
            await http.aclose()


def completion(**fields: object) -> Call:
    body = json.dumps({"prompt": "hello", "temperature": 0, "max_tokens": 5, **fields}).encode()
    return Call(path="/completions", body=body, is_stream=fields.get("stream") is True)


@pytest.mark.parametrize("kind", ["queue", "load_balancing"])
async def test_a_worker_answers(kind: str, model: Model) -> None:
    """From a cold start on: a stream, a whole answer, errors with their status; nothing runs for who has left."""
    async with endpoint(kind, model) as (here, backend):
        stream = await backend.open(completion(stream=True))
        chunks = parse_events((await read(stream)).decode())
        whole = await backend.open(completion())
        answer = json.loads(await read(whole))
        errors = [await backend.open(completion(temperature=9, stream=streams)) for streams in (True, False)]
        messages = [json.loads(await read(error))["error"]["message"] for error in errors]
        left = await backend.open(completion(stream=True, max_tokens=MANY))
        await piece_of(left)
        freed = len(here.log.find("log"))
        await left.aclose()
        await here.prints("slot freed", after=here.log.find("log")[freed - 1])
        health = await backend.health()

    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == answer["choices"][0]["text"]
    assert (stream.status, whole.status, [error.status for error in errors]) == (200, 200, [400, 400])
    assert len(set(messages)) == 1
    assert (health.is_ok, health.num_ready_workers) == (True, 1)


@pytest.mark.parametrize("kind", ["queue", "load_balancing"])
async def test_a_worker_dies_in_mid_stream(kind: str, model: Model) -> None:
    """The stream ends with an error, never as if it were complete, and never with a text that begins again."""
    async with endpoint(kind, model) as (here, backend):
        upstream = await backend.open(completion(stream=True, max_tokens=500))
        await piece_of(upstream)
        here.fleet.kill(here.fleet.workers["ep-w1"])
        with pytest.raises(TargetUnreachableError):
            await read(upstream)
