"""The demo model over HTTP, asked by the real OpenAI client."""

import asyncio
import json
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam
from pydantic import BaseModel, Field

from tests.end_to_end.program import PATIENCE, Server

pytestmark = pytest.mark.model

Messages = list[ChatCompletionMessageParam]


class City(BaseModel):
    """What an answer must be."""

    capital: str = Field(max_length=20)
    size: int = Field(ge=1, le=9)
    rivers: list[Literal["Seine", "Thames", "Rhône"]] = Field(min_length=2, max_length=2)


def user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


CAPITAL = user("What is the capital of France?")
STORY = user("Tell me a long story about a llama.")


async def ask(client: openai.AsyncOpenAI, messages: Messages, **fields: Any) -> ChatCompletion:
    answer = await client.chat.completions.create(
        model="llama", messages=messages, **{"temperature": 0, "max_tokens": 16, **fields}
    )
    assert isinstance(answer, ChatCompletion)
    return answer


async def stream(client: openai.AsyncOpenAI, messages: Messages, **fields: Any) -> list[ChatCompletionChunk]:
    chunks = await client.chat.completions.create(
        model="llama", messages=messages, stream=True, **{"temperature": 0, "max_tokens": 16, **fields}
    )
    return [chunk async for chunk in chunks]


def text_of(answer: ChatCompletion, choice: int = 0) -> str:
    return answer.choices[choice].message.content or ""


def streamed_text(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


async def test_answers(client: openai.AsyncOpenAI) -> None:
    """Whole."""
    answer = await ask(client, CAPITAL)

    assert "Paris" in text_of(answer)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_streams(client: openai.AsyncOpenAI) -> None:
    """The same, in chunks, with the usage last."""
    chunks = await stream(client, CAPITAL, stream_options={"include_usage": True})

    assert "Paris" in streamed_text(chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None


async def test_answers_under_a_schema(client: openai.AsyncOpenAI) -> None:
    """OpenAI's client reads them into the model that it sent the schema of, however hot they were drawn."""
    cool = await client.chat.completions.parse(
        model="llama", messages=CAPITAL, response_format=City, max_tokens=200, temperature=0
    )
    hot = await client.chat.completions.parse(
        model="llama", messages=CAPITAL, response_format=City, max_tokens=200, temperature=1.5, n=4
    )

    assert cool.choices[0].message.parsed is not None
    assert cool.choices[0].message.parsed.capital == "Paris"
    cities = [choice.message.parsed for choice in hot.choices]
    assert all(city is not None and 1 <= city.size <= 9 and len(city.rivers) == 2 for city in cities)


async def test_answer_is_an_object(client: openai.AsyncOpenAI) -> None:
    """JSON mode, streamed."""
    chunks = await stream(client, CAPITAL, response_format={"type": "json_object"}, max_tokens=200)

    assert isinstance(json.loads(streamed_text(chunks)), dict)
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_more_chats_than_slots(client: openai.AsyncOpenAI, server: Server) -> None:
    """16 finish beside one without end, and when that one hangs up nothing is left of it."""

    def num_open() -> int:
        health = server.health()
        return int(health["num_running"] + health["num_waiting"])

    endless = await client.chat.completions.create(
        model="llama", messages=STORY, stream=True, extra_body={"ignore_eos": True}
    )
    await anext(aiter(endless))
    chats = asyncio.gather(*(ask(client, user(f"What is {n} + {n}?"), max_tokens=8) for n in range(16)))
    await asyncio.to_thread(server.wait_until, lambda: num_open() == 17)
    await endless.close()
    async with asyncio.timeout(PATIENCE):
        answers = await chats

    assert all(answer.choices[0].finish_reason in ("stop", "length") for answer in answers)
    assert all(text_of(answer) for answer in answers)
    await asyncio.to_thread(server.wait_until, lambda: num_open() == 0)


async def test_whole_answer_that_no_client_waits_for(client: openai.AsyncOpenAI, server: Server) -> None:
    """A connection that closes before the answer frees its slot as well."""
    asking = asyncio.create_task(ask(client, STORY, max_tokens=None, extra_body={"ignore_eos": True}))
    await asyncio.to_thread(server.wait_until, lambda: server.health()["num_running"] == 1)
    asking.cancel()

    await asyncio.to_thread(server.wait_until, lambda: server.health()["num_running"] == 0)


async def test_second_turn_computes_what_is_new(client: openai.AsyncOpenAI) -> None:
    """A chat of 1,500 tokens goes on from the cache."""
    facts = " ".join(f"Llama number {number} is {number % 9 + 2} years old." for number in range(121))
    messages = user(f"{facts} Answer in one word: is there a llama?")
    first = await ask(client, messages, max_tokens=4)
    messages += [{"role": "assistant", "content": text_of(first)}, *user("Are you sure?")]
    second = await ask(client, messages, max_tokens=4)

    assert first.usage is not None
    assert first.usage.prompt_tokens > 1500
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= 0.95 * second.usage.prompt_tokens


async def test_equal_seeds_give_equal_text(client: openai.AsyncOpenAI) -> None:
    """Whatever was computed in between; another seed gives another text."""
    texts = []
    for seed in (7, 7, 8, 7):
        texts.append(text_of(await ask(client, STORY, temperature=0.8, seed=seed, max_tokens=20)))
        await ask(client, CAPITAL, max_tokens=2)

    first, second, other, third = texts
    assert first == second == third != other


async def test_several_choices(client: openai.AsyncOpenAI) -> None:
    """The prompt is computed and counted once."""
    answer = await ask(client, STORY, n=2, temperature=1, seed=3, max_tokens=12)
    chunks = await stream(client, STORY, n=2, temperature=1, max_tokens=6)

    assert text_of(answer, 0) != text_of(answer, 1)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1}


async def test_logprobs(client: openai.AsyncOpenAI) -> None:
    """Each token with its rivals, the likeliest first; greedy is the likeliest."""
    answer = await ask(client, CAPITAL, logprobs=True, top_logprobs=3)

    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    entries = logprobs.content or []
    assert b"".join(bytes(entry.bytes or []) for entry in entries).decode() == text_of(answer)
    for entry in entries:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
        assert entry.token == entry.top_logprobs[0].token
        assert entry.logprob <= 0


async def test_stop_strings_are_not_seen(client: openai.AsyncOpenAI) -> None:
    """Neither whole nor in parts, streamed or not, also where tokens cross their borders."""
    counting = user("Count from 1 to 9, separated by commas and spaces: 1, 2, 3, ")
    plain = text_of(await ask(client, counting, max_tokens=24))
    stop = plain[7:11]
    answer = await ask(client, counting, max_tokens=24, stop=[stop])
    chunks = await stream(client, counting, max_tokens=24, stop=[stop])

    assert text_of(answer) == streamed_text(chunks) == plain[: plain.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


async def test_completion(client: openai.AsyncOpenAI) -> None:
    """A text goes on, after its echo."""
    answer = await client.completions.create(
        model="demo", prompt="def add(a, b):\n    return", temperature=0, max_tokens=8, echo=True
    )

    assert answer.model == "demo"
    assert answer.choices[0].text.startswith("def add(a, b):\n    return a + b")


async def test_bad_requests_change_nothing(client: openai.AsyncOpenAI) -> None:
    """Too long a prompt and a wrong parameter are told, and the next request is answered."""
    with pytest.raises(openai.BadRequestError) as too_long:
        await ask(client, user(40_000 * "llama "))
    with pytest.raises(openai.BadRequestError) as too_hot:
        await ask(client, CAPITAL, temperature=5)

    assert (too_long.value.code, too_long.value.param) == ("context_length_exceeded", "messages")
    assert too_hot.value.param == "temperature"
    assert "Paris" in text_of(await ask(client, CAPITAL))
