"""The gateway's program before real workers that scale to zero: it accounts for what the platform bills."""

import asyncio
import csv
import io
import re
from pathlib import Path
from typing import Literal

import aiohttp
import pytest

from local_gateway.routing.worker_watch import EAGER
from tests.contract.stage import ODD_WORKER, SETTINGS, Stage, expecting_starts
from tests.gateway.gateway_process import command, running
from tests.gateway.platform_stage import TIMEOUT, tiny_model
from tests.gateway.targets.on_socket import FakeOpenAI
from tests.runpod_emulator import Emulator, EndpointSettings

ROUNDING = 2.0  # seconds a run: uptimes are whole, and a look takes its time
CHAT = {"model": "llama", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 5}


async def is_seen_gone(here: Stage, num_workers: int) -> None:
    """So many workers are gone, and the gateway has looked since."""
    await here.until(lambda: len(here.log.find("worker_gone")) == num_workers, "a worker that stops")
    gone = here.log.find("worker_gone")[-1].number
    await here.until(lambda: here.log.find("workers_listed")[-1].number > gone, "a look after its stop")


@pytest.mark.parametrize("kind", ["queue", "load_balancing"])
async def test_two_runs(tmp_path: Path, kind: Literal["queue", "load_balancing"]) -> None:
    """A worker starts, answers and stops, twice: seconds, starts and tokens are there when the gateway has ended."""
    model = tiny_model(tmp_path)
    program = ODD_WORKER if kind == "queue" else (*ODD_WORKER, "serve")
    own = EndpointSettings(kind=kind, command=program, env=model.env, max_workers=1, idle_timeout=4.0)
    used = {"prompt_tokens": 0, "completion_tokens": 0}
    async with asyncio.timeout(TIMEOUT), Emulator(SETTINGS) as emulator, aiohttp.ClientSession() as session:
        here = Stage(emulator, emulator.add_endpoint("ep", own), session)
        target = {
            "type": "runpod_queue" if kind == "queue" else "runpod_lb",
            "endpoint_id": "ep",
            "api_key": SETTINGS.client_key,
            "model": "model",
            "base_url": f"{emulator.url}/v2" if kind == "queue" else f"{emulator.url}/lb/ep/v1",
            "rest_url": f"{emulator.url}/v2",
            "worker_price": 0.001,
        }
        config = {"models": {"llama": {"targets": [target]}}}
        async with running(tmp_path, config) as gateway, expecting_starts(here):
            for num_runs in (1, 2):
                async with session.post(f"{gateway.api}/chat/completions", json=CHAT) as answer:
                    usage = (await answer.json())["usage"]
                used = {name: used[name] + usage[name] for name in used}
                await is_seen_gone(here, num_runs)
            async with session.get(f"{gateway.url}/metrics") as page:
                told = dict(
                    re.findall(r'^gateway_worker_(\w+)_total{endpoint="ep"} (\S+)$', await page.text(), re.MULTILINE)
                )
            assert await asyncio.to_thread(gateway.stop) == 0
        billed = here.fleet.billed_seconds

    (row,) = csv.DictReader(io.StringIO(command(tmp_path, "usage", "--by", "endpoint", "--csv")))
    assert (row["endpoint"], row["starts"]) == ("ep", "2")
    assert abs(int(row["billed seconds"]) - billed) <= 2 * (EAGER / 2 + ROUNDING)
    assert abs(float(told["billed_seconds"]) - billed) <= 2 * (EAGER + ROUNDING)  # the last look may not be in it
    assert float(told["cost"]) == pytest.approx(0.001 * float(told["billed_seconds"]))
    assert float(told["starts"]) == 2
    assert 0 < float(row["starting seconds"]) < billed
    assert [int(row["prompt tokens"]), int(row["completion tokens"])] == [*used.values()]


async def test_a_worker_that_is_woken_once_it_is_cheaper(tmp_path: Path) -> None:
    """A first request leaves the endpoint asleep; the other model's answer is dear, so the next one wakes a worker."""
    model = tiny_model(tmp_path)
    own = EndpointSettings(command=ODD_WORKER, env=model.env, max_workers=1, idle_timeout=10_000.0)
    async with (
        asyncio.timeout(TIMEOUT),
        Emulator(SETTINGS) as emulator,
        FakeOpenAI() as other,
        aiohttp.ClientSession() as session,
    ):
        here = Stage(emulator, emulator.add_endpoint("ep", own), session)
        endpoint = {
            "type": "runpod_queue",
            "name": "endpoint",
            "endpoint_id": "ep",
            "api_key": SETTINGS.client_key,
            "model": "model",
            "base_url": f"{emulator.url}/v2",
            "rest_url": f"{emulator.url}/v2",
            "worker_price": 0.001,
        }
        dear = {"type": "openai", "name": "dear", "base_url": other.url, "price": {"prompt": 1e6, "completion": 1e6}}
        cold_start = {"after": "1m", "use": "dear", "wake": "cheaper"}
        config = {"models": {"llama": {"targets": [endpoint], "cold_start": cold_start}, "dear": {"targets": [dear]}}}
        async with running(tmp_path, config) as gateway, expecting_starts(here):
            await here.until(lambda: here.log.find("workers_listed"), "the gateway's first look")
            targets = []
            num_started = []
            for name in ("dear", "llama", "llama", "llama"):  # the first one's answer comes after that look's
                async with session.post(f"{gateway.api}/chat/completions", json={**CHAT, "model": name}) as answer:
                    targets.append(answer.headers["x-gateway-target"])
                num_started.append(len(here.log.find("worker_started")))

    assert targets == ["dear", "dear", "endpoint", "endpoint"]
    assert num_started == [0, 0, 1, 1]
