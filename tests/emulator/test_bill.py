"""What the emulated platform bills its workers for, and how its REST API lists them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import aiohttp
import pytest

from tests.runpod_emulator import Clock, Emulator, EndpointSettings, Json, Worker
from tests.runpod_emulator.bill import Bill

TIMEOUT = 20.0
KEY = "Bearer client-key"


def test_runs_are_rounded_up_each() -> None:
    """One that is not over yet counts until now; an end without a beginning is none."""
    bill = Bill()
    bill.began("a", 10.0)
    bill.began("b", 10.5)
    bill.ended("a", 10.2)
    bill.ended("a", 50.0)
    bill.ended("never", 50.0)
    bill.began("a", 100.0)

    assert list(bill.seconds(101.0)) == [1, 91, 1]
    assert (bill.started("a"), bill.started("b"), bill.started("never")) == (100.0, 10.5, None)


class Scaled:
    """An endpoint whose workers do nothing by themselves: what they take and finish is played."""

    def __init__(self, emulator: Emulator, session: aiohttp.ClientSession, **own: Any) -> None:
        self.emulator = emulator
        self.endpoint = emulator.add_endpoint("ep", EndpointSettings(command=("sleep", "1000"), **own))
        self._session = session

    async def get(self, endpoint: str = "ep", key: str = KEY) -> tuple[int, Json]:
        url = f"{self.emulator.url}/v2/serverless/{endpoint}/workers"
        async with self._session.get(url, headers={"Authorization": key}) as answer:
            return answer.status, await answer.json(content_type=None)

    async def listed(self) -> list[tuple[str, int | None]]:
        """Status and uptime of each."""
        _, body = await self.get()
        assert body["summary"]["total"] == len(body["workers"])
        return [(worker["status"], worker["uptimeSeconds"]) for worker in body["workers"]]

    async def submit(self) -> str:
        url = f"{self.emulator.url}/v2/ep/run"
        async with self._session.post(url, json={"input": {}}, headers={"Authorization": KEY}) as answer:
            return str((await answer.json())["id"])

    async def happens(self, event: str, number: int = 1) -> Worker:
        """The worker to which it has happened so often by then."""
        assert await self.emulator.log.until(lambda: len(self.emulator.log.find(event)) >= number, TIMEOUT)
        return self.endpoint.fleet.workers[self.emulator.log.find(event)[-1].worker_id]


@asynccontextmanager
async def scaled(**own: Any) -> AsyncIterator[Scaled]:
    async with Emulator(clock=Clock()) as emulator, aiohttp.ClientSession() as session:
        yield Scaled(emulator, session, **own)


async def test_a_worker_from_start_to_stop() -> None:
    """It is listed, and billed, from the start of its container until that is gone, whatever it does."""
    async with scaled() as here:
        clock = here.emulator.clock
        job_id = await here.submit()
        worker = await here.happens("container_started")
        clock.advance(20)
        starting = await here.listed()
        await here.endpoint.take(worker.id, 1)
        running = await here.listed()
        here.endpoint.queue.done(job_id, worker.id, {"output": "x"}, here.endpoint.now)
        idle = await here.listed()
        _, body = await here.get()
        clock.advance(6)
        await here.happens("worker_gone")
        gone = await here.listed()
        billed = here.endpoint.fleet.billed_seconds
        clock.advance(1000)

        assert [starting[0][0], running[0][0], idle[0][0]] == ["INITIALIZING", "RUNNING", "IDLE"]
        assert starting[0][1] is not None
        assert starting[0][1] >= 20
        assert datetime.fromisoformat(body["workers"][0]["startedAt"]).tzinfo is not None
        assert gone == []
        assert billed >= 26
        assert here.endpoint.fleet.billed_seconds == billed


async def test_a_worker_that_waits_for_a_machine() -> None:
    """It has no start and no uptime, and costs nothing."""
    async with scaled(cold_start=1000) as here:
        await here.submit()
        await here.happens("worker_started")
        here.emulator.clock.advance(100)

        assert await here.listed() == [("INITIALIZING", None)]
        assert here.endpoint.fleet.billed_seconds == 0


async def test_a_frozen_worker() -> None:
    """It is scaled down: neither listed nor billed until it is thawed, which is a run of its own."""
    async with scaled(flashboot=True) as here:
        job_id = await here.submit()
        worker = await here.happens("container_started")
        await here.endpoint.take(worker.id, 1)
        here.endpoint.queue.done(job_id, worker.id, {"output": "x"}, here.endpoint.now)
        here.emulator.clock.advance(6)
        await here.happens("worker_frozen")
        frozen = await here.listed()
        here.emulator.clock.advance(1000)
        await here.submit()
        await here.happens("worker_thawed")
        ((_, uptime),) = await here.listed()

        assert frozen == []
        assert uptime is not None
        assert uptime < 100
        assert [run.worker_id for run in here.endpoint.fleet.bill.runs] == [worker.id, worker.id]


@pytest.mark.parametrize(("endpoint", "key", "status"), [("none", KEY, 404), ("ep", "client-key", 401)])
async def test_refusals(endpoint: str, key: str, status: int) -> None:
    """As problem+json says them."""
    async with scaled() as here:
        assert (await here.get(endpoint, key))[0] == status
