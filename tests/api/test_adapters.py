"""Adapters by their names, through the API and as jobs, on a fake model."""

import asyncio

import pytest

from handler.api.routes import CHAT, COMPLETIONS
from handler.errors import ModelNotFoundError
from handler.job import make_handler
from tests.fake_worker import chat_chunks, fake_worker, messages, read

SQL = {"model": "sql", "max_tokens": 8}


async def test_they_are_listed_behind_the_model() -> None:
    """As vLLM lists them, with the model that they are of."""
    with fake_worker(adapters=("sql", "tone")) as worker:
        listing = await worker.api.call("/v1/models", None, "GET")
        sql = await worker.api.call("/v1/models/sql", None, "GET")

    assert isinstance(listing, dict)
    assert [model["id"] for model in listing["data"]] == ["llama", "org/model", "sql", "tone"]
    assert [model.get("parent") for model in listing["data"]] == [None, None, "llama", "llama"]
    assert isinstance(sql, dict)
    assert (sql["id"], sql["parent"]) == ("sql", "llama")


async def test_the_name_chooses() -> None:
    """In completions and chats, whole and streamed; without it the model answers as it is."""
    with fake_worker(adapters=("sql",)) as worker:
        completion = await worker.complete("Once", **SQL)
        chat = await worker.chat("Hi", **SQL)
        chunks = chat_chunks(await read(await worker.stream_chat("Hi", **SQL)))
        plain = await worker.chat("Hi")
        expected = worker.runner.answer("Once", 8, "sql"), worker.runner.answer("Hi>", 8, "sql")

    assert (completion["choices"][0]["text"], completion["model"]) == (expected[0], "sql")
    assert (chat["choices"][0]["message"]["content"], chat["model"]) == (expected[1], "sql")
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == expected[1]
    assert {chunk.model for chunk in chunks} == {"sql"}
    assert plain["choices"][0]["message"]["content"] == "Hello!"


async def test_an_unknown_name_is_refused() -> None:
    """With the names that there are."""
    with fake_worker(adapters=("sql",)) as worker, pytest.raises(ModelNotFoundError, match="llama, org/model, sql"):
        await worker.chat("Hi", model="sq")


async def test_at_the_same_time() -> None:
    """Each request has its own adapter, and what it says alone."""
    names = [None, "sql", "tone"]
    with fake_worker(adapters=("sql", "tone")) as worker:
        answers = await asyncio.gather(
            *(worker.complete("Twice", max_tokens=40, model=name) for name in names), worker.chat("Hi", model="tone")
        )
        expected = [worker.runner.answer("Twice", 40, name) for name in names]

    assert [answer["choices"][0]["text"] for answer in answers[:3]] == expected
    assert answers[3]["model"] == "tone"


@pytest.mark.parametrize(
    "job_input",
    [
        {"openai_route": CHAT, "openai_input": {**messages("Hi"), **SQL}},
        {"route": CHAT, "body": {**messages("Hi"), **SQL}},
        {**messages("Hi"), **SQL},
        {"prompt": "Hi>", **SQL},
        {"openai_route": COMPLETIONS, "openai_input": {"prompt": "Hi>", **SQL}},
    ],
    ids=["chat", "route", "shorthand", "prompt", "completion"],
)
async def test_jobs(job_input: dict[str, object]) -> None:
    """Whatever form a job has."""
    with fake_worker(adapters=("sql",)) as worker:
        [answer] = [output async for output in make_handler(worker.api)({"id": "1", "input": job_input})]
        expected = worker.runner.answer("Hi>", 8, "sql")

    assert isinstance(answer, dict)
    choice = answer["choices"][0]
    assert (choice["message"]["content"] if "message" in choice else choice["text"]) == expected
