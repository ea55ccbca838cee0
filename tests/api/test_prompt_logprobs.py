"""Logprobs of prompts through the API, on a fake model: OpenAI's `echo` with `logprobs`, vLLM's `prompt_logprobs`."""

from typing import Any

import pytest

from handler.api.completion_logprobs import echoed_logprobs
from handler.engine.logprobs import ScoredPrompt, TokenLogprob
from tests.engine.fakes import score
from tests.fake_worker import Json, completion_chunks, events, fake_worker, read

ONCE = list(b"Once")
SCORES = [score(ONCE[:end], ONCE[end]).logprob for end in range(1, len(ONCE))]
PROMPT = {
    "tokens": list("Once"),
    "token_logprobs": [None, *SCORES],
    "top_logprobs": [None, {}, {}, {}],
    "text_offset": [0, 1, 2, 3],
}
WHOLE = {  # with the token that ends it, which has no text
    "tokens": [*"Once upon a time", ""],
    "token_logprobs": [None, *SCORES, *(13 * [-1.0])],
    "top_logprobs": [None, *(16 * [{}])],
    "text_offset": list(range(17)),
}


def joined(chunks: list[Json], index: int) -> Json:
    """The logprobs of a choice, out of its chunks."""
    parts = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return {name: [item for part in parts if part for item in part[name]] for name in PROMPT}


async def test_echo_with_logprobs() -> None:
    """The prompt's tokens stand before the answer's, the first one without a logprob, whole and streamed alike."""
    with fake_worker() as worker:
        answer = await worker.complete("Once", echo=True, logprobs=0)
        stream = await worker.stream_completion("Once", echo=True, logprobs=0)
        chunks = events("".join(await read(stream)))

    assert answer["choices"][0]["text"] == "Once upon a time"
    assert answer["choices"][0]["logprobs"] == WHOLE
    assert joined(chunks, 0) == WHOLE


async def test_each_choice_has_its_prompt() -> None:
    """Of several prompts and choices, though a prompt is scored once; so is each of those in a stream."""
    with fake_worker() as worker:
        fields: dict[str, Any] = {"echo": True, "logprobs": 0, "n": 2}
        answer = await worker.complete(["Once", "Hi>"], **fields)
        chunks = events("".join(await read(await worker.stream_completion(["Once", "Hi>"], **fields))))

    assert [choice["text"] for choice in answer["choices"]] == 2 * ["Once upon a time"] + 2 * ["Hi>Hello!"]
    assert [choice["logprobs"]["tokens"][:2] for choice in answer["choices"]] == 2 * [["O", "n"]] + 2 * [["H", "i"]]
    for index, choice in enumerate(answer["choices"]):
        assert joined(chunks, index) == choice["logprobs"]


@pytest.mark.parametrize("stream", [False, True])
async def test_scoring_alone(stream: bool) -> None:
    """As harnesses ask for it: no token is generated, and what is there has its logprobs."""
    fields: dict[str, Any] = {"echo": True, "logprobs": 0, "max_tokens": 0}
    with fake_worker() as worker:
        if stream:
            items = await read(await worker.stream_completion("Once", **fields))
            chunks = completion_chunks(items)
            text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
            logprobs, reason = joined(events("".join(items)), 0), chunks[-1].choices[0].finish_reason
        else:
            answer = await worker.complete("Once", **fields)
            [choice] = answer["choices"]
            text, logprobs, reason = choice["text"], choice["logprobs"], choice["finish_reason"]
            assert answer["usage"]["completion_tokens"] == 0

    assert (text, logprobs, reason) == ("Once", PROMPT, "length")


@pytest.mark.parametrize("prompt", ["Once", "Once upon a time"], ids=["goes on", "ends"])
async def test_a_continuation_as_harnesses_score_it(prompt: str) -> None:
    """lm-evaluation-harness generates one token and leaves out the last entry: there must be one, also where the model
    ends at once."""
    with fake_worker() as worker:
        answer = await worker.complete(list(prompt.encode()), echo=True, logprobs=1, max_tokens=1, temperature=0)

    [choice] = answer["choices"]
    num_context = 2
    scores = choice["logprobs"]["token_logprobs"][num_context:-1]
    token_ids = list(prompt.encode())
    assert scores == [score(token_ids[:end], token_ids[end]).logprob for end in range(num_context, len(token_ids))]


async def test_no_token_without_echo() -> None:
    """An empty text, of a prompt that is now cached."""
    with fake_worker() as worker:
        answer = await worker.complete("Once", max_tokens=0)
        again = await worker.complete("Once", max_tokens=1)

    assert answer["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


async def test_prompt_logprobs() -> None:
    """vLLM's field: by token id, with rank and text; nothing is echoed for it."""
    with fake_worker() as worker:
        [choice] = (await worker.complete("Once", prompt_logprobs=0))["choices"]

    assert choice["text"] == " upon a time"
    assert choice["logprobs"] is None
    expected = [
        {str(token_id): {"logprob": logprob, "rank": rank, "decoded_token": chr(token_id)}}
        for rank, (token_id, logprob) in enumerate(zip(ONCE[1:], SCORES, strict=True), start=1)
    ]
    assert choice["prompt_logprobs"] == [None, *expected]


async def test_the_best_of_several_have_their_prompt() -> None:
    """The candidate with the prompt's logprobs need not be among those that are sent."""
    with fake_worker() as worker:
        answer = await worker.complete("Once", best_of=3, echo=True, logprobs=0)

    assert [choice["logprobs"] for choice in answer["choices"]] == [WHOLE]


def test_offsets_are_those_of_characters() -> None:
    """Tokens that are parts of a character begin where it does; a blank that a model puts before a text has no place
    in it."""
    pieces = [b"", b" a", "é".encode()[:1], "é".encode()[1:], b"b"]
    first, *others = [TokenLogprob(token_id, piece, -1.0) for token_id, piece in enumerate(pieces)]
    logprobs = echoed_logprobs(ScoredPrompt(first.token_id, first.piece, tuple(others)), "aéb", 0)
    assert logprobs.text_offset == [0, 0, 1, 1, 2]


def test_the_likeliest_of_tokens_with_one_text_counts() -> None:
    """Parts of characters all look alike."""
    top = tuple(TokenLogprob(token_id, b"\xff", logprob) for token_id, logprob in enumerate((-0.5, -2.0)))
    logprobs = echoed_logprobs(ScoredPrompt(0, b"a", (TokenLogprob(1, b"\xff", -2.0, top),)), "a\ufffd", 2)
    assert logprobs.top_logprobs == [None, {"\ufffd": -0.5}]
