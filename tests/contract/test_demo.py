"""The whole way with a model that speaks: OpenAI's client, the platform, the SDK, the worker, the demo model."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from tests.contract.stage import Model, Stage, stage

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

PARIS: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def english(demo: Model) -> AsyncIterator[Stage]:
    async with stage(demo, env={"N_THREADS": "0", "N_CTX": "4096"}) as english:
        await english.worker()
        yield english


async def test_paris(english: Stage) -> None:
    """Streamed and not."""
    async with english.openai() as client:
        whole = await client.chat.completions.create(model="model", messages=PARIS, temperature=0, max_tokens=20)
        stream = await client.chat.completions.create(
            model="model", messages=PARIS, temperature=0, max_tokens=20, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert "Paris" in str(whole.choices[0].message.content)
    assert "Paris" in text


async def test_eight_chats_at_once(english: Stage) -> None:
    """Each is answered for itself."""
    capitals = {
        "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
        "Japan": "Tokyo", "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens",
    }  # fmt: skip
    async with english.openai() as client:
        answers = await asyncio.gather(
            *[
                client.chat.completions.create(
                    model="model",
                    messages=[{"role": "user", "content": f"What is the capital of {country}?"}],
                    temperature=0,
                    max_tokens=16,
                )
                for country in capitals
            ]
        )

    for capital, answer in zip(capitals.values(), answers, strict=True):
        assert capital in str(answer.choices[0].message.content)
