"""What becomes of keys and usage records when the gateway is killed, or its database is, while requests come in."""

import asyncio
import resource
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.gateway.gateway_process import Config, GatewayProcess, create_key, rows, running
from tests.gateway.targets.on_socket import FakeOpenAI
from tests.waiting import eventually

CHAT = {"model": "model", "messages": [{"role": "user", "content": "Hi"}]}
RATE = 200  # requests per second
NUM_BEFORE_KILL = 500
MAX_LOSS = 1.0  # seconds: a record of a request that ended earlier must be there


@pytest_asyncio.fixture
async def target() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as fake:
        yield fake


def config_for(target: FakeOpenAI) -> Config:
    models = {"model": {"targets": [{"type": "openai", "base_url": target.url}]}}
    return {"models": models, "server": {"require_keys": True}}


class Client:
    """Sends requests, and remembers when the answer to each was there."""

    def __init__(self, session: aiohttp.ClientSession, gateway: GatewayProcess, key: str) -> None:
        self.ended: dict[str, float] = {}  # by request id
        self.statuses: list[int] = []
        self._session = session
        self._url = f"{gateway.api}/chat/completions"
        self._headers = {"authorization": f"Bearer {key}"}

    async def send(self) -> int:
        async with self._session.post(self._url, json=CHAT, headers=self._headers) as answer:
            await answer.read()
        self.ended[answer.headers["x-request-id"]] = time.monotonic()
        self.statuses.append(answer.status)
        return answer.status

    async def send_many(self, number: int) -> list[int]:
        return list(await asyncio.gather(*(self.send() for _ in range(number))))

    async def load(self) -> None:
        """At the same rate, whatever becomes of them, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._try())
                await asyncio.sleep(1 / RATE)

    async def _try(self) -> None:
        try:
            await self.send()
        except aiohttp.ClientError:
            self.statuses.append(0)


def recorded(database: Path) -> list[str]:
    """Ids of requests."""
    return [row[0] for row in rows(database, "SELECT request_id FROM gateway_usage")]


def delete(database: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


async def test_kill(target: FakeOpenAI, tmp_path: Path) -> None:
    """200 requests a second, and SIGKILL: at most the last second is missing, nothing is twice, nothing is broken."""
    config = config_for(target)
    async with running(tmp_path, config) as gateway, aiohttp.ClientSession() as session:
        key = await create_key(gateway, "team")
        client = Client(session, gateway, key)
        load = asyncio.create_task(client.load())
        await eventually(lambda: len(client.ended) >= NUM_BEFORE_KILL)
        gateway.kill()
        killed = time.monotonic()
        load.cancel()
        await asyncio.wait([load])
        found = recorded(gateway.database)

    old = {request_id for request_id, ended in client.ended.items() if ended < killed - MAX_LOSS}
    assert len(old) >= NUM_BEFORE_KILL - 2 * RATE * MAX_LOSS
    assert not old - set(found)
    assert len(found) == len(set(found))
    assert rows(gateway.database, "PRAGMA integrity_check") == [("ok",)]

    async with running(tmp_path, config) as gateway, aiohttp.ClientSession() as session:
        client = Client(session, gateway, key)
        assert await client.send_many(10) == 10 * [200]
        await eventually(lambda: set(client.ended) <= set(recorded(gateway.database)))
        assert set(found) <= set(recorded(gateway.database))
        (spent,) = rows(gateway.database, "SELECT count(*), sum(num_prompt_tokens) FROM gateway_usage")
        assert spent[1] == 7 * spent[0]


@pytest.mark.parametrize("number", [2, 15], ids=["SIGINT", "SIGTERM"])
async def test_stop(target: FakeOpenAI, tmp_path: Path, number: int) -> None:
    """Asked to end, it loses no record at all."""
    async with running(tmp_path, config_for(target)) as gateway, aiohttp.ClientSession() as session:
        client = Client(session, gateway, await create_key(gateway, "team"))
        await client.send_many(100)
        gateway.process.send_signal(number)
        await eventually(lambda: gateway.process.poll() is not None)

        assert sorted(client.ended) == sorted(recorded(gateway.database))


async def test_database_deleted(target: FakeOpenAI, tmp_path: Path) -> None:
    """Requests go on with the keys that were known; no empty database takes its place."""
    async with running(tmp_path, config_for(target)) as gateway, aiohttp.ClientSession() as session:
        key = await create_key(gateway, "team")
        client = Client(session, gateway, key)
        await client.send_many(20)
        delete(gateway.database)

        assert await client.send_many(50) == 50 * [200]
        await eventually(lambda: "was deleted" in gateway.log or "is missing" in gateway.log)
        assert not gateway.database.exists()


async def test_database_locked(target: FakeOpenAI, tmp_path: Path) -> None:
    """By another program, for as long as it likes: requests do not wait for it, their records do."""
    async with running(tmp_path, config_for(target)) as gateway, aiohttp.ClientSession() as session:
        client = Client(session, gateway, await create_key(gateway, "team"))
        with closing(sqlite3.connect(gateway.database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await client.send_many(100) == 100 * [200]
            assert not set(client.ended) & set(recorded(gateway.database))
            other.execute("ROLLBACK")

        await eventually(lambda: set(client.ended) <= set(recorded(gateway.database)))


async def test_disk_full(target: FakeOpenAI, tmp_path: Path) -> None:
    """No file may grow any more, the log included. When there is room again, the records are written."""
    async with running(tmp_path, config_for(target)) as gateway, aiohttp.ClientSession() as session:
        client = Client(session, gateway, await create_key(gateway, "team"))
        pid, kind = gateway.process.pid, resource.RLIMIT_FSIZE
        before = resource.prlimit(pid, kind)
        resource.prlimit(pid, kind, (4096, before[1]))
        assert await client.send_many(200) == 200 * [200]
        assert len(set(client.ended) - set(recorded(gateway.database))) > 100
        resource.prlimit(pid, kind, before)

        await eventually(lambda: set(client.ended) <= set(recorded(gateway.database)))
        assert rows(gateway.database, "PRAGMA integrity_check") == [("ok",)]


async def test_database_that_cannot_be_used(target: FakeOpenAI, tmp_path: Path) -> None:
    """Overwritten with something else while requests come in: those whose keys are known are answered."""
    async with running(tmp_path, config_for(target)) as gateway, aiohttp.ClientSession() as session:
        client = Client(session, gateway, await create_key(gateway, "team"))
        await client.send_many(5)
        gateway.database.write_bytes(100_000 * b"no database ")

        assert await client.send_many(50) == 50 * [200]
