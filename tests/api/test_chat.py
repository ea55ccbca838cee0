"""Chats through the API, whole and streamed, on a fake model."""

import asyncio
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from handler.errors import EngineError, RequestError
from tests.fake_worker import chat_chunks, events, fake_worker, read
from tests.waiting import eventually


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


async def test_answer() -> None:
    """A whole answer has the text, why it ended, what it cost, and the name it is served under."""
    with fake_worker() as worker:
        answer = await worker.chat("Hi")

    completion = ChatCompletion.model_validate(answer)
    assert completion.id.startswith("chatcmpl-")
    assert completion.object == "chat.completion"
    assert completion.model == "llama"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 7,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_stream() -> None:
    """The role, the text, a finish without text, and nothing that was not asked for."""
    with fake_worker() as worker:
        items = await read(await worker.stream_chat("Hi"))

    role, *texts, finish = events("".join(items))
    assert role["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    assert all(chunk["choices"][0]["delta"].keys() == {"content"} for chunk in texts)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in texts)
    assert finish["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in texts) == "Hello!"
    for chunk in [role, *texts, finish]:
        assert chunk["object"] == "chat.completion.chunk"
        assert "usage" not in chunk
        assert {name: chunk[name] for name in ("id", "created", "model")} == {
            name: role[name] for name in ("id", "created", "model")
        }


async def test_usage_comes_last_if_it_is_asked_for() -> None:
    """Some clients break on a chunk without choices, so it comes for those alone who know it."""
    with fake_worker() as worker:
        chunks = chat_chunks(await read(await worker.stream_chat("Hi", stream_options={"include_usage": True})))
        whole = await worker.chat("Hi", temperature=0)

    *before, last = chunks
    assert all(chunk.usage is None and chunk.choices for chunk in before)
    assert last.choices == []
    assert last.usage is not None
    usage = last.usage.model_dump(exclude_unset=True)
    assert usage == {**whole["usage"], "prompt_tokens_details": {"cached_tokens": 0}}
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}  # a second time it is in the cache


async def test_slow_reader_gets_one_chunk_of_what_has_gathered() -> None:
    """Pending deltas become one, with the finish behind it in the same item."""
    with fake_worker(held=True) as worker:
        worker.permit()
        stream = await worker.stream_chat("Hi")
        items = aiter(stream)
        first = await anext(items)
        worker.let_go()
        await worker.finishes()
        rest = await anext(items)

        with pytest.raises(StopAsyncIteration):
            await anext(items)
    assert text_of(chat_chunks([first, rest])) == "Hello!"
    assert [event["choices"][0]["delta"] for event in events(rest)] == [{"content": "ello!"}, {}]


FINISHES: dict[str, tuple[dict[str, Any], str, str]] = {
    "end of the answer": ({}, "Hello!", "stop"),
    "max_tokens": ({"max_tokens": 2}, "He", "length"),
    "max_completion_tokens": ({"max_completion_tokens": 1, "max_tokens": 5}, "H", "length"),
    "stop string": ({"stop": "lo"}, "Hel", "stop"),
    "first of several stop strings": ({"stop": ["!", "ll"]}, "He", "stop"),
    "stop string that begins and does not come": ({"stop": ["o!?"]}, "Hello!", "stop"),
    "stop string at once": ({"stop": "H"}, "", "stop"),
}


@pytest.mark.parametrize(("fields", "text", "reason"), FINISHES.values(), ids=FINISHES)
async def test_finish(fields: dict[str, Any], text: str, reason: str) -> None:
    """Whole and streamed end alike, and of a stop string nothing is seen."""
    with fake_worker() as worker:
        choice = (await worker.chat("Hi", **fields))["choices"][0]
        chunks = chat_chunks(await read(await worker.stream_chat("Hi", **fields)))

    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)
    assert (text_of(chunks), chunks[-1].choices[0].finish_reason) == (text, reason)


async def test_answer_ends_where_the_context_does() -> None:
    """Without max_tokens an answer may be as long as the context leaves."""
    with fake_worker(num_cells=40) as worker:
        answer = await worker.chat("without end")

    assert answer["usage"]["total_tokens"] == 40
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_several_choices() -> None:
    """Each has its role, its text and its finish; the prompt is counted once."""
    with fake_worker() as worker:
        answer = await worker.chat("Hi", n=3)
        items = await read(await worker.stream_chat("Hi", n=3, stream_options={"include_usage": True}))

    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"Hello!"}
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 21
    *chunks, last = chat_chunks(items)
    for index in range(3):
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert choices[0].delta.role == "assistant"
        assert [choice.finish_reason for choice in choices].count("stop") == 1
        assert text_of(chunks, index) == "Hello!"
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 21)


async def test_logprobs() -> None:
    """A logprob for each token of the text, in streams too."""
    with fake_worker() as worker:
        whole = ChatCompletion.model_validate(await worker.chat("Hi", logprobs=True))
        chunks = chat_chunks(await read(await worker.stream_chat("Hi", logprobs=True)))
        without = ChatCompletion.model_validate(await worker.chat("Hi"))

    assert whole.choices[0].logprobs is not None
    entries = whole.choices[0].logprobs.content or []
    assert [entry.token for entry in entries] == list("Hello!")
    assert [entry.bytes for entry in entries] == [[byte] for byte in b"Hello!"]
    assert all(entry.logprob == -1 and entry.top_logprobs == [] for entry in entries)
    streamed = [chunk.choices[0].logprobs for chunk in chunks]
    assert [entry for logprobs in streamed if logprobs for entry in logprobs.content or []] == entries
    assert without.choices[0].logprobs is None


@pytest.mark.parametrize("name", ["llama", "org/model"])
async def test_model_is_called_what_it_was_asked_for(name: str) -> None:
    """Clients look for the name that they sent."""
    with fake_worker() as worker:
        assert (await worker.chat("Hi", model=name))["model"] == name
        assert {chunk.model for chunk in chat_chunks(await read(await worker.stream_chat("Hi", model=name)))} == {name}


ANSWER = '{"a":1}'
ANSWERS_JSON = {"Hi>": ANSWER, "Wrong>": '{"b":1}', "Long>": '{"a": 1234}'}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
UNDER_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}


async def test_answer_under_a_schema() -> None:
    """It ends where it is complete, whole and streamed, each choice for itself; the end costs no token."""
    with fake_worker(ANSWERS_JSON) as worker:
        answer = await worker.chat("Hi", **UNDER_SCHEMA, n=2)
        chunks = chat_chunks(await read(await worker.stream_chat("Hi", **UNDER_SCHEMA, n=2, logprobs=True)))

    assert [choice["message"]["content"] for choice in answer["choices"]] == [ANSWER, ANSWER]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop", "stop"]
    assert answer["usage"]["completion_tokens"] == 2 * len(ANSWER)
    assert [text_of(chunks, index) for index in (0, 1)] == [ANSWER, ANSWER]


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [({"max_tokens": 8}, '{"a": 12', "length"), ({"stop": "23"}, '{"a": 1', "stop")],
    ids=["max_tokens", "stop string"],
)
async def test_answer_under_a_schema_is_cut_off(fields: dict[str, Any], text: str, reason: str) -> None:
    """By what cuts off any other."""
    with fake_worker(ANSWERS_JSON) as worker:
        (choice,) = (await worker.chat("Long", **UNDER_SCHEMA, **fields))["choices"]

    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)


async def test_answer_that_breaks_its_schema_is_an_error() -> None:
    """It ends with that sequence; others, and later ones, are answered."""
    with fake_worker(ANSWERS_JSON) as worker:
        wrong, right = await asyncio.gather(
            worker.chat("Wrong", **UNDER_SCHEMA), worker.chat("Hi", **UNDER_SCHEMA), return_exceptions=True
        )

        assert isinstance(wrong, EngineError)
        assert "schema" in str(wrong)
        assert isinstance(right, dict)
        assert (await worker.chat("Hi"))["choices"][0]["message"]["content"] == ANSWER


async def test_cancelled_answer_frees_its_grammar() -> None:
    """Nothing holds on to it when its reader has left."""
    with fake_worker(ANSWERS_JSON, held=True) as worker:
        worker.permit()
        stream = await worker.stream_chat("Hi", **UNDER_SCHEMA)
        (sequence,) = worker.engine._loop._generations
        assert sequence.matcher is not None
        stream.cancel()
        worker.let_go()
        await eventually(lambda: sequence.matcher is None)


def unsupported(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str | None, str, str]]] = {
    "no template": (
        {"template": None},
        {},
        (None, "chat_template_error", "This model has no chat template. Use /v1/completions, or set CHAT_TEMPLATE."),
    ),
    "broken template": (
        {"template": "{% for %}"},
        {},
        (None, "chat_template_error", "This model's own template cannot be used: the chat template does not compile"),
    ),
    "template that refuses": (
        {"template": "{{ raise_exception('No system messages.') }}"},
        {},
        (None, "chat_template_error", "The chat template refuses this conversation: No system messages."),
    ),
    "template that fails": (
        {"template": "{{ messages.absent.absent }}"},
        {},
        (None, "chat_template_error", "The chat template failed: "),
    ),
    "empty prompt": (
        {"template": "{{ '' }}"},
        {},
        ("prompt", "invalid_request_error", "The prompt is empty."),
    ),
    "too long a prompt": (
        {"num_cells": 40},
        {"messages": [{"role": "user", "content": 40 * "x"}]},
        (
            "messages",
            "context_length_exceeded",
            "This model's maximum context length is 40 tokens, but the prompt alone has 41. Please shorten it.",
        ),
    ),
    "schema that is wrong": (
        {},
        unsupported({"type": "strin"}),
        (
            "response_format.json_schema.schema",
            "invalid_json_schema",
            "This worker cannot follow the JSON schema: Invalid type: strin",
        ),
    ),
    "schema that is wrong, of an object": (
        {},
        {"response_format": {"type": "json_object", "schema": {"minLength": 2, "maxLength": 1, "type": "string"}}},
        ("response_format.schema", "invalid_json_schema", "This worker cannot follow the JSON schema: "),
    ),
    "huge schema": (
        {},
        unsupported({"enum": ["x" * 200_000]}),
        (
            "response_format.json_schema.schema",
            "invalid_json_schema",
            "This worker cannot follow the JSON schema: it has 200013 characters, and at most 131072 are allowed",
        ),
    ),
    "unknown model": (
        {},
        {"model": "gpt-5"},
        ("model", "model_not_found", "The model 'gpt-5' does not exist here; served: llama, org/model."),
    ),
    "more choices than the worker takes": (
        {"num_slots": 2, "max_queue": 1},
        {"n": 4},
        (None, "invalid_request_error", "The request asks for 4 answers; this worker takes 3."),
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("setup", "fields", "told"), REFUSALS.values(), ids=REFUSALS)
async def test_refusal(
    setup: dict[str, Any], fields: dict[str, Any], told: tuple[str | None, str, str], stream: bool
) -> None:
    """What cannot be answered is an error before the first byte, and leaves nothing behind."""
    with fake_worker(**setup) as worker:
        with pytest.raises(RequestError) as caught:
            await worker.chat("Hi", stream=stream, **fields)

        param, code, message = told
        assert (caught.value.param, caught.value.code) == (param, code)
        assert str(caught.value).startswith(message)
        assert (await worker.complete("Once"))["choices"][0]["text"] == " upon a time"
