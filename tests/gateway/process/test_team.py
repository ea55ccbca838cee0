"""Many requests of one team at once: budgets hold, equal requests are asked once, two gateways know the same."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

import tests.gateway.wire_samples as wire
from tests.gateway.gateway_process import Config, GatewayProcess, bearer, create_key, rows, running
from tests.gateway.targets.on_socket import JSON, FakeOpenAI, Reply
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 50
COST = 1.0  # of one answer: two tokens, half a million per million of them
BUDGET = 10
PRICE = {"completion": 500_000}
PATIENCE = 30.0  # seconds until a test that waits fails


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in small letters
    body: bytes

    @property
    def code(self) -> Any:
        return json.loads(self.body)["error"]["code"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as fake:
        yield fake


def config_for(target: FakeOpenAI) -> Config:
    priced = {"type": "openai", "base_url": target.url, "price": PRICE}
    models = {
        "model": {"targets": [priced]},
        "own": {"targets": [{**priced, "model": "model"}], "coalesce": "key"},
        "shared": {"targets": [{**priced, "model": "model"}], "coalesce": "team"},
        "kept": {"targets": [{**priced, "model": "model"}], "cache": {"scope": "team"}},
    }
    return {"models": models, "server": {"require_keys": True}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(target: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    async with running(tmp_path_factory.mktemp("gateway"), config_for(target)) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def as_new(target: FakeOpenAI) -> None:
    target.reset()


async def ask(session: aiohttp.ClientSession, gateway: GatewayProcess, key: str, **fields: Any) -> Answer:
    body = {"model": "model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **fields}
    async with session.post(f"{gateway.api}/chat/completions", json=body, headers=bearer(key)) as answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status, headers, await answer.read())


def held_reply(stream: bool, held: asyncio.Event) -> Reply:
    """The usual answer, when it may come."""
    if stream:
        first, *rest = wire.text_events("Par", "is.", usage=True)
        return Reply([first, held, *rest])
    return Reply([held, json.dumps(wire.answer_of("chat/completions", "Paris.")).encode()], headers=JSON)


async def records(gateway: GatewayProcess, key_name: str, number: int) -> list[tuple[int, float, str]]:
    """Status, cost and sharing of a key's requests, when all are written."""
    statement = f"SELECT status, cost, sharing FROM gateway_usage WHERE key_name = '{key_name}'"
    found = await eventually(lambda: (all_rows := rows(gateway.database, statement))[number - 1 :] and all_rows)
    return [(status, cost, sharing) for status, cost, sharing in found]


async def many(
    session: aiohttp.ClientSession, gateway: GatewayProcess, key: str, **fields: Any
) -> list[asyncio.Task[Answer]]:
    return [asyncio.create_task(ask(session, gateway, key, **fields)) for _ in range(MANY)]


async def until_done(tasks: list[asyncio.Task[Answer]], number: int) -> None:
    """So many of them are over."""
    waiting = set(tasks)
    async with asyncio.timeout(PATIENCE):
        while len(tasks) - len(waiting) < number:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)


# Budgets


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_budget(
    gateway: GatewayProcess, target: FakeOpenAI, session: aiohttp.ClientSession, stream: bool
) -> None:
    """Of 50 requests at once as many are let through as the money lasts for; the others never reach the target."""
    name = f"budget {stream}"
    key = await create_key(gateway, name, "--budget", str(BUDGET))
    held = asyncio.Event()
    target.script = lambda _: held_reply(stream, held)
    tasks = await many(session, gateway, key, stream=stream)
    await until_done(tasks, MANY - BUDGET)
    held.set()
    answers = await asyncio.gather(*tasks)
    late = await ask(session, gateway, key, stream=stream)

    assert Counter(answer.status for answer in answers) == {200: BUDGET, 429: MANY - BUDGET}
    assert {answer.code for answer in [*answers, late] if answer.status == 429} == {"insufficient_quota"}
    assert len(target.received) == BUDGET
    assert late.status == 429
    found = await records(gateway, name, MANY + 1)
    assert sum(cost for _, cost, _ in found) == BUDGET * COST


async def test_budget_of_requests_that_name_no_limit(
    gateway: GatewayProcess, target: FakeOpenAI, session: aiohttp.ClientSession
) -> None:
    """Their cost is not known beforehand: they come through one by one, and at most the last one is too much."""
    key = await create_key(gateway, "unlimited", "--budget", "1.5")
    answers = await asyncio.gather(*(ask(session, gateway, key, max_tokens=None) for _ in range(MANY)))
    while (answer := await ask(session, gateway, key, max_tokens=None)).status == 200:
        answers.append(answer)

    assert sum(answer.status == 200 for answer in answers) == 2
    assert {answer.status for answer in answers} == {200, 429}
    found = await records(gateway, "unlimited", len(answers) + 1)
    assert sum(cost for _, cost, _ in found) == 2 * COST


async def test_budget_after_a_restart(target: FakeOpenAI, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """What was spent stays spent."""
    async with running(tmp_path, config_for(target)) as gateway:
        key = await create_key(gateway, "spender", "--budget", "2")
        assert [(await ask(session, gateway, key)).status for _ in range(3)] == [200, 200, 429]
        gateway.stop()
    async with running(tmp_path, config_for(target)) as gateway:
        assert (await ask(session, gateway, key)).status == 429


async def test_concurrency(gateway: GatewayProcess, target: FakeOpenAI, session: aiohttp.ClientSession) -> None:
    """A key's limit of requests at once; a place is free again when one is over, or its client has left."""
    key = await create_key(gateway, "narrow", "--concurrency", "3")
    held = asyncio.Event()
    target.script = lambda _: held_reply(False, held)
    tasks = await many(session, gateway, key)
    await until_done(tasks, MANY - 3)
    running_tasks = [task for task in tasks if not task.done()]
    running_tasks[0].cancel()
    await target.until(lambda: target.left)
    held.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    after = [await ask(session, gateway, key) for _ in range(3)]

    refused = [answer for answer in answers if isinstance(answer, Answer) and answer.status == 429]
    assert len(refused) == MANY - 3
    assert {answer.code for answer in refused} == {"rate_limit_exceeded"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert [answer.status for answer in after] == [200, 200, 200]


async def test_requests_per_minute(gateway: GatewayProcess, target: FakeOpenAI, session: aiohttp.ClientSession) -> None:
    """Those beyond it are told when to come again."""
    key = await create_key(gateway, "hasty", "--rpm", "5")
    answers = await asyncio.gather(*(ask(session, gateway, key) for _ in range(MANY)))

    assert 1 <= sum(answer.status == 200 for answer in answers) <= 6
    assert {answer.code for answer in answers if answer.status != 200} == {"rate_limit_exceeded"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status == 429)


# Equal requests


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_coalescing(
    gateway: GatewayProcess, target: FakeOpenAI, session: aiohttp.ClientSession, stream: bool
) -> None:
    """50 equal requests in flight: one call to the target, 50 whole answers, paid once."""
    name = f"same {stream}"
    key = await create_key(gateway, name, "--admin")
    held = asyncio.Event()
    target.script = lambda _: held_reply(stream, held)
    tasks = await many(session, gateway, key, model="own", temperature=0, stream=stream)
    await target.until(lambda: target.received)
    await in_flight(session, gateway, key, MANY)
    held.set()
    answers = await asyncio.gather(*tasks)

    assert len(target.received) == 1
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert b"Par" in answers[0].body
    assert Counter(answer.headers["x-gateway-cache"] for answer in answers) == {"miss": 1, "shared": MANY - 1}
    found = await records(gateway, name, MANY)
    assert sorted(cost for _, cost, _ in found) == [*((MANY - 1) * [0.0]), COST]


async def in_flight(session: aiohttp.ClientSession, gateway: GatewayProcess, key: str, number: int) -> None:
    """The gateway has so many requests now."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with session.get(f"{gateway.url}/metrics", headers=bearer(key)) as answer:
                text = await answer.text()
            lines = [line for line in text.splitlines() if "in_flight" in line and not line.startswith("#")]
            if sum(float(line.rpartition(" ")[2]) for line in lines) >= number:
                return


@pytest.mark.parametrize(("model", "num_calls"), [("own", 2), ("shared", 1), ("model", 2)])
async def test_who_shares(
    gateway: GatewayProcess, target: FakeOpenAI, session: aiohttp.ClientSession, model: str, num_calls: int
) -> None:
    """Keys share answers only where the configuration says that they are a team."""
    keys = [await create_key(gateway, f"{name} {model}", "--admin") for name in ("Ann", "Bob")]
    held = asyncio.Event()
    target.script = lambda _: held_reply(False, held)
    tasks = [asyncio.create_task(ask(session, gateway, key, model=model, temperature=0)) for key in keys]
    await target.until(lambda: len(target.received) == num_calls)
    await in_flight(session, gateway, keys[0], 2)
    held.set()
    answers = await asyncio.gather(*tasks)

    assert [answer.status for answer in answers] == [200, 200]
    assert len(target.received) == num_calls


async def test_clients_that_leave(gateway: GatewayProcess, target: FakeOpenAI, session: aiohttp.ClientSession) -> None:
    """They do not disturb the last one; when it leaves too, the target is told."""
    key = await create_key(gateway, "leavers", "--admin")
    held = asyncio.Event()
    target.script = lambda _: held_reply(True, held)
    tasks = await many(session, gateway, key, model="own", temperature=0, stream=True)
    await target.until(lambda: target.received)
    await in_flight(session, gateway, key, MANY)
    for task in tasks[:-1]:
        task.cancel()
    await asyncio.wait(tasks[:-1])
    assert not target.left
    tasks[-1].cancel()
    await target.until(lambda: target.left)

    assert len(target.received) == 1


async def test_cache(gateway: GatewayProcess, target: FakeOpenAI, session: aiohttp.ClientSession) -> None:
    """A deterministic question is asked once; `no-store` asks anew and leaves nothing."""
    key = await create_key(gateway, "asker", "--admin")
    fields = {"model": "kept", "temperature": 0, "seed": 1}
    answers = [await ask(session, gateway, key, **fields) for _ in range(3)]
    changed = await ask(session, gateway, key, **{**fields, "seed": 2})
    warm = await ask(session, gateway, key, **{**fields, "temperature": 1, "seed": None})

    assert [answer.headers.get("x-gateway-cache") for answer in answers] == ["miss", "hit", "hit"]
    assert len({answer.body for answer in answers}) == 1
    assert changed.headers["x-gateway-cache"] == "miss"
    assert warm.headers.get("x-gateway-cache") != "hit"
    assert len(target.received) == 3


# Two gateways


async def until_status(session: aiohttp.ClientSession, gateway: GatewayProcess, key: str, status: int) -> None:
    """What the other process did takes up to two seconds to be known."""
    async with asyncio.timeout(PATIENCE):
        while (await ask(session, gateway, key)).status != status:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)


async def test_two_gateways_with_one_database(
    target: FakeOpenAI, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A key made beside one is known to the other; both write, and know what was spent at the other."""
    folders = [tmp_path / "a", tmp_path / "b"]
    config = {**config_for(target), "database": {"url": f"sqlite:///{tmp_path / 'common.db'}"}}
    for folder in folders:
        folder.mkdir()
    async with running(folders[0], config) as first, running(folders[1], config) as second:
        key = await create_key(first, "both", "--budget", "4")
        await until_status(session, second, key, 200)
        answers = [await ask(session, first, key) for _ in range(3)]
        await until_status(session, second, key, 429)

        assert [answer.status for answer in answers] == [200, 200, 200]
