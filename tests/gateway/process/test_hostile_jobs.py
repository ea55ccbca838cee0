"""Jobs of RunPod whose client leaves, or whose gateway is stopped: the platform says what they cost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.contract.stage import ODD_WORKER, SETTINGS
from tests.gateway.gateway_process import GatewayProcess, bearer, create_key, rows, running
from tests.gateway.platform_stage import tiny_model
from tests.runpod_emulator import Clock, Emulator, EndpointSettings, Settings

SLOW = {"ODD_STEP_SECONDS": "0.05"}  # a token
MAX_SECONDS = 200.0  # that RunPod lets a job run
SPEED = 25  # of a platform on which a job of three seconds is one of 75
PATIENT = replace(SETTINGS, lost_job_after=None, ping_deadline=10_000.0)  # while time runs so fast
USAGE = "SELECT outcome, cost, execution_seconds FROM gateway_usage"


@asynccontextmanager
async def priced(
    folder: Path, *, platform: Settings = SETTINGS, clock: Clock | None = None, **server: Any
) -> AsyncIterator[tuple[GatewayProcess, aiohttp.ClientSession]]:
    """An endpoint with one worker that is there, and a price of 1 a second."""
    model = tiny_model(folder)
    settings = EndpointSettings(
        command=ODD_WORKER,
        requests_per_worker=100,
        idle_timeout=10_000.0,
        max_workers=1,
        restart_pause=0.1,
        env={**model.env, **SLOW},
    )
    async with Emulator(platform, clock=clock) as emulator, aiohttp.ClientSession() as session:
        emulator.add_endpoint("ep", settings)
        target = {
            "type": "runpod_queue",
            "base_url": f"{emulator.url}/v2",
            "endpoint_id": "ep",
            "api_key": emulator.settings.client_key,
            "model": "model",
            "execution_timeout": MAX_SECONDS,
            "price": {"gpu_second": 1},
        }
        async with running(
            folder,
            {
                "models": {"llama": {"targets": [target]}},
                "server": server,
                "timeouts": {"commit": "300ms", "probe": "300ms"},
            },
        ) as gateway:
            async with post(gateway, session, max_tokens=1) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
            yield gateway, session


@asynccontextmanager
async def post(
    gateway: GatewayProcess, session: aiohttp.ClientSession, **fields: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    body = {"model": "llama", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, **fields}
    async with session.post(f"{gateway.api}/chat/completions", json=body) as answer:
        yield answer


async def until_keys_are_asked_for(gateway: GatewayProcess, session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(30):
        while True:
            async with session.get(f"{gateway.api}/models") as answer:
                if answer.status == 401:
                    return
            await asyncio.sleep(0.05)


async def recorded(gateway: GatewayProcess, number: int) -> list[Any]:
    async with asyncio.timeout(30):
        while True:
            if len(found := rows(gateway.database, f"{USAGE} ORDER BY time")) >= number:
                return found
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("seconds", [1.0, 4.0])
async def test_client_that_leaves_a_job(tmp_path: Path, seconds: float) -> None:
    """After so many seconds of GPU work, without a byte of the answer: it is charged so many seconds."""
    async with priced(tmp_path) as (gateway, session):

        async def ask() -> None:
            async with post(gateway, session, max_tokens=2000, min_tokens=2000) as answer:
                await answer.read()

        asking = asyncio.create_task(ask())
        await asyncio.sleep(seconds)  # the GPU's
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        *_, (outcome, cost, execution_seconds) = await recorded(gateway, 2)

    assert outcome == "client_left"
    assert cost == execution_seconds
    assert cost == pytest.approx(seconds, abs=0.7)


async def test_jobs_when_the_gateway_is_stopped(tmp_path: Path) -> None:
    """Twenty streams are told, each with its record and what its job ran."""
    async with priced(tmp_path, drain="500ms") as (gateway, session):

        async def ask() -> bytes:
            async with post(gateway, session, max_tokens=2000, min_tokens=2000, stream=True) as answer:
                return await answer.read()

        asking = [asyncio.create_task(ask()) for _ in range(20)]
        await asyncio.sleep(3.0)
        gateway.process.send_signal(signal.SIGTERM)
        bodies = await asyncio.gather(*asking)
        assert await asyncio.to_thread(gateway.process.wait, 30) == 0
        _, *records = await recorded(gateway, 21)

    for body in bodies:
        assert body.endswith(b"data: [DONE]\n\n")
        assert b"gateway_stopping" in body
    assert [outcome for outcome, *_ in records] == ["stopped"] * 20
    assert all(cost == seconds for _, cost, seconds in records)  # of a job that had not begun both are 0
    assert sum(cost for _, cost, _ in records) > 1.0


@pytest.mark.parametrize("budget", [1.0, 450.0])
async def test_a_first_burst_of_long_jobs(tmp_path: Path, budget: float) -> None:
    """Forty at once that run longer than a request usually does: the budget is exceeded by one of them at most."""
    async with priced(tmp_path, platform=PATIENT, clock=Clock(speed=SPEED)) as (gateway, session):
        key = await create_key(gateway, "payer", "--budget", str(budget))
        await until_keys_are_asked_for(gateway, session)

        async def ask() -> int:
            body = {
                "model": "llama",
                "messages": [{"role": "user", "content": "hi"}],
                "max_tokens": 60,
                "min_tokens": 60,
            }
            async with session.post(f"{gateway.api}/chat/completions", json=body, headers=bearer(key)) as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*(ask() for _ in range(40)))
        _, *records = await recorded(gateway, 41)

    costs = [cost for _, cost, _ in records]
    assert set(statuses) == {200, 429}
    assert max(costs) > 60.0, "these jobs were meant to be long"
    assert sum(costs) <= budget + max(costs)
    assert statuses.count(200) == max(1, int(budget / MAX_SECONDS)), "what is left is used by as many as are safe"
