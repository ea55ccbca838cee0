"""Completions through the API, whole and streamed, on a fake model."""

from typing import Any

import pytest
from openai.types import Completion

from handler.api.completions import CompletionChunk
from handler.errors import RequestError
from tests.fake_worker import completion_chunks, events, fake_worker, read


def text_of(chunks: list[CompletionChunk], index: int = 0) -> str:
    return "".join(choice.text for chunk in chunks for choice in chunk.choices if choice.index == index)


async def test_completion() -> None:
    """A whole completion has the text, why it ended, what it cost, and the name it is served under."""
    with fake_worker() as worker:
        answer = await worker.complete("Once")

    completion = Completion.model_validate(answer)
    assert completion.id.startswith("cmpl-")
    assert completion.object == "text_completion"
    assert completion.model == "llama"
    assert answer["choices"] == [{"index": 0, "text": " upon a time", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 13,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_stream() -> None:
    """The text, a finish without text, and nothing that was not asked for."""
    with fake_worker() as worker:
        items = await read(await worker.stream_completion("Once"))

    *texts, finish = events("".join(items))
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in texts)
    assert finish["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert "".join(chunk["choices"][0]["text"] for chunk in texts) == " upon a time"
    for chunk in [*texts, finish]:
        assert chunk["object"] == "text_completion"
        assert (chunk["id"], chunk["created"], chunk["model"]) == (finish["id"], finish["created"], "llama")
        assert "usage" not in chunk


async def test_usage_comes_last_if_it_is_asked_for() -> None:
    """In a chunk of its own, which has no choices."""
    with fake_worker() as worker:
        stream = await worker.stream_completion("Once", stream_options={"include_usage": True})
        *before, last = completion_chunks(await read(stream))

    assert all(chunk.usage is None and chunk.choices for chunk in before)
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (4, 13, 17)
    assert last.usage.prompt_tokens_details is not None


@pytest.mark.parametrize(
    ("prompt", "texts", "prompt_tokens"),
    [
        ("Once", [" upon a time"], 4),
        (["Once", "Hi>"], [" upon a time", "Hello!"], 7),
        (list(b"Once"), [" upon a time"], 4),
        ([list(b"Hi>"), list(b"Once")], ["Hello!", " upon a time"], 7),
    ],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
async def test_prompts(prompt: object, texts: list[str], prompt_tokens: int) -> None:
    """Each prompt has `n` choices, numbered prompt by prompt."""
    expected = [text for text in texts for _ in range(2)]
    with fake_worker() as worker:
        answer = await worker.complete(prompt, n=2)
        stream = await worker.stream_completion(prompt, n=2, stream_options={"include_usage": True})
        *chunks, last = completion_chunks(await read(stream))

    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    assert answer["usage"]["prompt_tokens"] == prompt_tokens
    assert [text_of(chunks, index) for index in range(len(expected))] == expected
    assert last.usage is not None
    assert last.usage.prompt_tokens == prompt_tokens


@pytest.mark.parametrize("prompt", ["Once", list(b"Once")], ids=["text", "tokens"])
async def test_echo(prompt: object) -> None:
    """The prompt stands before each of its continuations, once."""
    with fake_worker() as worker:
        answer = await worker.complete(prompt, n=2, echo=True)
        chunks = completion_chunks(await read(await worker.stream_completion(prompt, n=2, echo=True)))

    assert [choice["text"] for choice in answer["choices"]] == 2 * ["Once upon a time"]
    assert [text_of(chunks, index) for index in range(2)] == 2 * ["Once upon a time"]


async def test_logprobs() -> None:
    """Tokens, their logprobs, and where in the text they begin, also over the chunks of a stream."""
    with fake_worker() as worker:
        answer = await worker.complete("Once", logprobs=0)
        chunks = completion_chunks(await read(await worker.stream_completion("Once", logprobs=0)))

    expected = {
        "tokens": list(" upon a time"),
        "token_logprobs": 12 * [-1.0],
        "top_logprobs": 12 * [{}],
        "text_offset": list(range(12)),
    }
    streamed = [chunk.choices[0].logprobs for chunk in chunks]
    assert answer["choices"][0]["logprobs"] == expected
    assert [offset for part in streamed if part for offset in part.text_offset or []] == expected["text_offset"]
    assert [token for part in streamed if part for token in part.tokens or []] == expected["tokens"]


async def test_slow_reader_gets_one_chunk_of_what_has_gathered() -> None:
    """What the last item says at once is the rest of the text, and the finish behind it."""
    with fake_worker(held=True) as worker:
        worker.permit()
        items = aiter(await worker.stream_completion("Once"))
        await anext(items)
        worker.let_go()
        await worker.finishes()
        rest = events(await anext(items))

    told = [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in rest]
    assert told == [("upon a time", None), ("", "stop")]


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({}, " upon a time", "stop"),
        ({"max_tokens": 3}, " up", "length"),
        ({"stop": "a t"}, " upon ", "stop"),
        ({"stop": " "}, "", "stop"),
    ],
)
async def test_finish(fields: dict[str, Any], text: str, reason: str) -> None:
    """Whole and streamed end alike, and of a stop string nothing is seen."""
    with fake_worker() as worker:
        choice = (await worker.complete("Once", **fields))["choices"][0]
        chunks = completion_chunks(await read(await worker.stream_completion("Once", **fields)))

    assert (choice["text"], choice["finish_reason"]) == (text, reason)
    assert (text_of(chunks), chunks[-1].choices[0].finish_reason) == (text, reason)


@pytest.mark.parametrize(
    ("prompt", "param", "code", "message"),
    [
        ("", "prompt", "invalid_request_error", "The prompt is empty."),
        ([258], "prompt", "invalid_request_error", "The prompt has token ids that are not in the vocabulary."),
        (
            ["Once", 40 * "x"],
            "prompt",
            "context_length_exceeded",
            "This model's maximum context length is 40 tokens, but the prompt alone has 40. Please shorten it.",
        ),
    ],
    ids=["empty", "unknown token", "too long"],
)
async def test_refusal(prompt: object, param: str, code: str, message: str) -> None:
    """What cannot be completed is an error, also if it is one prompt of many, and leaves nothing behind."""
    with fake_worker(num_cells=40) as worker:
        with pytest.raises(RequestError) as caught:
            await worker.complete(prompt)

        assert (caught.value.param, caught.value.code, str(caught.value)) == (param, code, message)
        assert await worker.still_answers()


async def test_needs_no_chat_template() -> None:
    """A base model completes."""
    with fake_worker(template=None) as worker:
        assert (await worker.complete("Once"))["choices"][0]["text"] == " upon a time"
