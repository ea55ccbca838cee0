"""Requests that would spend more than their key has, on a real gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.gateway.gateway_process import GatewayProcess, bearer, create_key, rows, running
from tests.gateway.targets.on_socket import FakeOpenAI, Received, Reply

NUM_AT_ONCE = 40
COST = 1.0  # of each request that is answered
PRICE = {"prompt": 1, "completion": 10}


@dataclass
class Payer:
    gateway: GatewayProcess
    target: FakeOpenAI
    key: str
    session: aiohttp.ClientSession

    async def post(self, body: dict[str, Any], path: str = "/chat/completions") -> int:
        async with self.session.post(self.gateway.api + path, json=body, headers=bearer(self.key)) as answer:
            await answer.read()
            return answer.status

    async def recorded(self, number: int) -> list[Any]:
        """(outcome, status, cost) of as many requests."""
        async with asyncio.timeout(20):
            while True:
                found = rows(self.gateway.database, "SELECT outcome, status, cost FROM gateway_usage")
                if len(found) >= number:
                    return found
                await asyncio.sleep(0.05)


@asynccontextmanager
async def payer(folder: Path, budget: float, *, max_attempts: int = 1, **price: float) -> AsyncIterator[Payer]:
    async with FakeOpenAI(dear) as target, aiohttp.ClientSession() as session:
        one = {
            "type": "openai",
            "base_url": target.url,
            "price": price or PRICE,
            "name": "one",
            "breaker": {"failures": 1000},
        }
        models = {
            "cheap": {"targets": [one]},
            "dropped": {"targets": [{**one, "drop_params": ["max_completion_tokens"], "name": "two"}]},
            "renamed": {"targets": [{**one, "rename_params": {"max_tokens": "n_predict"}, "name": "three"}]},
            "shared": {"targets": [{**one, "name": "four"}], "coalesce": "key"},
        }
        async with running(
            folder,
            {
                "models": models,
                "retry": {"max_attempts": max_attempts, "backoff": 0.01},
                "server": {"require_keys": True},
            },
        ) as gateway:
            key = await create_key(gateway, "payer", "--budget", str(budget))
            yield Payer(gateway, target, key, session)


def dear(received: Received) -> Reply:
    """100,000 tokens, whatever was asked for."""
    message = {"role": "assistant", "content": "Paris."}
    choice = {"index": 0, "message": message, "text": "Paris.", "finish_reason": "stop"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 0, "completion_tokens": 100_000}}
    return Reply([json.dumps(body).encode()], headers={"content-type": "application/json"}, pace=0.3)


CHAT, TEXT = "/chat/completions", "/completions"
CHEAP: dict[str, Any] = {"model": "cheap", "messages": []}
DROPPED: dict[str, Any] = {"model": "dropped", "messages": []}
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "said honestly": (CHAT, {**CHEAP, "max_tokens": 100_000}),
    "many prompts": (TEXT, {"model": "cheap", "prompt": ["a"] * 100, "max_tokens": 1000}),
    "many lists of tokens": (TEXT, {"model": "cheap", "prompt": [[1, 2]] * 100, "max_tokens": 1000}),
    "two limits": (CHAT, {**CHEAP, "max_completion_tokens": 1, "max_tokens": 100_000}),
    "a limit of zero that is dropped": (CHAT, {**DROPPED, "max_completion_tokens": 0}),
    "a small limit that is dropped": (CHAT, {**DROPPED, "max_completion_tokens": 1}),
    "no limit": (CHAT, CHEAP),
    "a limit that is none": (CHAT, {**CHEAP, "max_tokens": "few"}),
    "a limit of another name": (CHAT, {**CHEAP, "max_tokens": 1, "n_predict": 100_000}),
    "many answers": (CHAT, {**CHEAP, "max_tokens": 1000, "n": 100}),
    "the best of many": (TEXT, {"model": "cheap", "prompt": "a", "max_tokens": 1000, "best_of": 100}),
    "a fraction": (CHAT, {**CHEAP, "max_tokens": 100_000.0}),
    "renamed": (CHAT, {"model": "renamed", "messages": [], "max_tokens": 100_000}),
    "a limit in an object": (CHAT, {**CHEAP, "max_tokens": 1, "extra_body": {"max_tokens": 100_000}}),
    "many answers in an object": (CHAT, {**CHEAP, "max_tokens": 1000, "options": {"n": 100}}),
    "another spelling": (CHAT, {**CHEAP, "max_tokens": 1, "maxOutputTokens": 100_000}),
    "a text": (CHAT, {**CHEAP, "max_tokens": "100000"}),
    "prompts of both kinds": (TEXT, {"model": "cheap", "prompt": [1, "a"] * 50, "max_tokens": 1000}),
}


@pytest.mark.parametrize(("path", "body"), ATTACKS.values(), ids=ATTACKS)
async def test_forty_at_once(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    """However the request says it, a budget is exceeded by one request at most."""
    async with payer(tmp_path, budget=1.0) as here:
        statuses = await asyncio.gather(*(here.post(body, path) for _ in range(NUM_AT_ONCE)))
        records = await here.recorded(NUM_AT_ONCE)

    assert set(statuses) == {200, 429}
    assert 1.0 <= sum(cost for *_, cost in records) <= 1.0 + COST


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_forty_at_once_whose_target_fails(tmp_path: Path, status: int) -> None:
    """Each try has cost its prompt: requests are not tried again with money that is others'."""
    async with payer(tmp_path, budget=10.0, max_attempts=4, prompt=1000) as here:
        here.target.script = lambda _: replace(Reply.error(status, "out of memory"), pace=0.3)
        body = {**CHEAP, "messages": [{"role": "user", "content": "x" * 4000}], "max_tokens": 1}
        statuses = await asyncio.gather(*(here.post(body) for _ in range(NUM_AT_ONCE)))
        costs = [cost for *_, cost in await here.recorded(NUM_AT_ONCE)]

    assert 429 in statuses
    assert 1.0 <= max(costs) <= 1.1 * 4
    assert sum(costs) <= 10.0 + max(costs)


LEAVING: dict[str, tuple[str, dict[str, Any], int]] = {
    "a chat": (CHAT, CHEAP, 0),
    "a stream": (CHAT, {**CHEAP, "stream": True}, 0),
    "embeddings": ("/embeddings", {"model": "cheap", "input": "a"}, 0),
    "a response": ("/responses", {"model": "cheap", "input": "a", "stream": True}, 0),
    "a picture": ("/images/generations", {"model": "cheap", "prompt": "a"}, 0),
    "a shared call": (CHAT, {**CHEAP, "model": "shared", "temperature": 0}, 0),
    "after a failure": (CHAT, CHEAP, 1),
}


@pytest.mark.parametrize(("path", "body", "num_failures"), LEAVING.values(), ids=LEAVING)
async def test_client_that_leaves_pays_for_the_gpu(
    tmp_path: Path, path: str, body: dict[str, Any], num_failures: int
) -> None:
    """A target by the second, which works before it says anything: the work until the client left is paid."""
    async with payer(tmp_path, budget=10_000.0, max_attempts=2, gpu_second=1) as here:
        here.target.once += [Reply.error(500, "no")] * num_failures
        here.target.once.append(Reply(held=asyncio.Event()))
        work = asyncio.create_task(here.post(body, path))
        await here.target.until(lambda: len(here.target.received) > num_failures)
        await asyncio.sleep(1.0)  # the GPU's
        work.cancel()
        ((outcome, status, cost),) = await here.recorded(1)

    assert (outcome, status) == ("client_left", 499)
    assert cost == pytest.approx(1.0, abs=0.3)
