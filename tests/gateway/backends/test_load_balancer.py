"""Load-balancing endpoints of RunPod, played by a scripted server and by the emulated platform."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from local_gateway.backends.base import Call
from local_gateway.backends.http import HttpClient
from local_gateway.backends.runpod.load_balancer import RunpodLbBackend
from local_gateway.config.settings import RunpodLbTarget, TimeoutSettings
from local_gateway.errors import (
    TargetConfigError,
    TargetError,
    TargetRefusedError,
    TargetTimeoutError,
    TargetUnreachableError,
)
from tests.gateway.targets.on_socket import Exchange, RawScript, always, head, reply, target_and_client
from tests.runpod_emulator import Emulator, EndpointSettings, Fault, Settings

CALL = Call(path="/chat/completions", body=b'{"model": "llama"}')
NO_WORKER_CAME = {"status": 400, "title": "Bad Request", "detail": "timed out waiting for worker"}
WORKERS_400 = {"error": {"message": "No such role.", "type": "invalid_request_error", "param": None, "code": None}}


def backend_of(base_url: str, http: HttpClient, key: str = "rp-key") -> RunpodLbBackend:
    return RunpodLbBackend(RunpodLbTarget(type="runpod_lb", endpoint_id="ep", api_key=key, base_url=base_url), http)


async def ask(backend: RunpodLbBackend, conversation: str = "") -> tuple[int, bytes, str]:
    call = Call(path=CALL.path, body=CALL.body, conversation=conversation)
    upstream = await backend.open(call)
    try:
        return upstream.status, await upstream.read(), upstream.header("x-runpod-worker-id")
    finally:
        await upstream.aclose()


# Affinity


def as_worker(*worker_ids: str) -> RawScript:
    """Each request is answered by the next of these."""
    remaining = iter(worker_ids)

    async def script(exchange: Exchange) -> None:
        await exchange.send(reply(200, b"{}", x_runpod_worker_id=next(remaining)))

    return script


async def test_turns_of_a_conversation() -> None:
    """Each asks for the worker that answered the one before; other conversations do not."""
    async with target_and_client(as_worker("w1", "w2", "w3", "w3")) as (target, http):
        backend = backend_of(f"{target.url}/v1", http)
        answers = [await ask(backend, conversation) for conversation in ("a", "a", "b", "a")]
        wanted = [exchange.headers.get("x-runpod-worker-id") for exchange in target.exchanges]
        keys = {exchange.headers["authorization"] for exchange in target.exchanges}

    assert [worker_id for _, _, worker_id in answers] == ["w1", "w2", "w3", "w3"]
    assert wanted == [None, "w1", None, "w2"]
    assert keys == {"Bearer rp-key"}


async def test_clients_see_no_worker() -> None:
    """Its id is ours."""
    async with target_and_client(as_worker("w1")) as (target, http):
        upstream = await backend_of(f"{target.url}/v1", http).open(CALL)
        await upstream.aclose()

    assert "x-runpod-worker-id" not in upstream.headers


# Whose error it is


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (503, {"error": "no workers available"}, TargetRefusedError, 503),
        (400, {"error": "no workers available"}, TargetRefusedError, 503),
        (400, NO_WORKER_CAME, TargetRefusedError, 503),
        (400, {"error": "not allowed for QB API"}, TargetConfigError, 502),
        (502, {"status": 502, "title": "Error", "detail": "ClientOSError"}, TargetUnreachableError, 502),
        (502, b"<html>Bad Gateway</html>", TargetUnreachableError, 502),
        (503, b"", TargetRefusedError, 503),
        (504, b"", TargetTimeoutError, 504),
    ],
)  # fmt: skip
@pytest.mark.parametrize("framing", ["content_length", "transfer_encoding"])
async def test_errors_of_the_balancer(
    status: int, body: object, kind: type[TargetError], told: int, framing: str
) -> None:
    """No worker has seen the request, or it was lost: another target may answer it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = reply(status, content)
    if framing == "transfer_encoding":
        parts = f"{len(content):x}\r\n".encode() + content + b"\r\n" if content else b""
        answer = head(status, transfer_encoding="chunked") + parts + b"0\r\n\r\n"
    async with target_and_client(always(answer)) as (target, http):
        with pytest.raises(TargetError) as caught:
            await ask(backend_of(f"{target.url}/v1", http))

    assert (type(caught.value), caught.value.status) == (kind, told)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, WORKERS_400),
        (503, {"error": {"message": "The model is still loading.", "code": "loading"}}),
        (503, {"object": "error", "message": "The engine is dead.", "code": 503}),
        (502, {"error": "CUDA broke", "error_type": "generation"}),
        (503, {"detail": "The engine is starting."}),
        (404, {"status": 404, "title": "Error", "detail": "there is no such endpoint"}),
        (500, b"oops"),
        (400, b"x" * 100_000),
        (401, b""),
    ],
)
async def test_errors_of_a_worker(status: int, body: object) -> None:
    """They are answers, with status and body."""
    async with target_and_client(always(reply(status, body))) as (target, http):
        answer = await ask(backend_of(f"{target.url}/v1", http))

    assert answer == (status, body if isinstance(body, bytes) else json.dumps(body).encode(), "")


@pytest.mark.parametrize(
    ("status", "body", "is_ok", "num_ready", "detail"),
    [
        (200, b"", True, 1, "a worker answers"),
        (204, b"", True, 0, "a worker is starting"),
        (503, {"error": "no workers available"}, True, 0, "no worker runs"),
        (401, b"", False, None, "does not accept our key (status 401)"),
        (404, b"", False, None, "answers with status 404"),
        (400, {"error": "not allowed for QB API"}, False, None,
         "The RunPod endpoint is a queue endpoint: its type in the configuration is wrong."),
    ],
)  # fmt: skip
async def test_health(status: int, body: object, is_ok: bool, num_ready: int | None, detail: str) -> None:
    """What /ping says, or the balancer while there is no worker to ask."""
    async with target_and_client(always(reply(status, body))) as (target, http):
        health = await backend_of(f"{target.url}/v1", http).health()
        path = target.exchanges[0].path

    assert path == "/ping"
    assert (health.is_ok, health.num_ready_workers, health.detail) == (is_ok, num_ready, detail)


# On the emulated platform


@asynccontextmanager
async def platform(settings: Settings | None = None, **own: Any) -> AsyncIterator[tuple[Emulator, RunpodLbBackend]]:
    """Without workers."""
    http = HttpClient(TimeoutSettings())
    async with Emulator(settings) as emulator:
        emulator.add_endpoint("ep", EndpointSettings(kind="load_balancing", **own))
        yield emulator, backend_of(f"{emulator.url}/lb/ep/v1", http, emulator.settings.client_key)
        await http.aclose()


async def test_no_worker_comes() -> None:
    """The balancer waits for one for two minutes; then the request may go elsewhere."""
    async with platform(Settings(no_worker_timeout=0.1)) as (_, backend):
        with pytest.raises(TargetRefusedError) as caught:
            await backend.open(CALL)
        health = await backend.health()

    assert (caught.value.status, caught.value.error["code"], caught.value.retry_after) == (503, "no_workers", 5)
    assert (health.is_ok, health.detail) == (True, "no worker runs")


async def test_the_balancer_hangs_up() -> None:
    """That is a target that cannot be reached."""
    async with platform() as (emulator, backend):
        emulator.faults.add(Fault("forward", drops=True))
        with pytest.raises(TargetUnreachableError):
            await backend.open(CALL)


async def test_a_queue_endpoint() -> None:
    """It is told what is wrong with the configuration."""
    async with platform() as (emulator, backend):
        emulator.add_endpoint("ep", EndpointSettings())
        with pytest.raises(TargetConfigError, match="queue endpoint"):
            await backend.open(CALL)
