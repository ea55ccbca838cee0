"""Events that are nothing but text are recognized by how the one before began; all others are looked at."""

import json
from typing import Any

import pytest

from local_gateway.accounts.usage import UsageMeter
from local_gateway.wire.text_events import TextBlock, TextEvents


def event(text: str = "some text", finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], **more}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def after_one() -> TextEvents:
    texts = TextEvents()
    assert texts.read(event("the first"))
    return texts


@pytest.mark.parametrize("text", ["more", "", 'a "quoted" word', "back\\slash", "line\nbreak", '"error"', "\u0416"])
def test_any_text_is_recognized(text: str) -> None:
    """Whatever a text spells, it is a text."""
    assert after_one().read(event(text))


def test_a_block_of_many_is_recognized() -> None:
    """Events that come together are recognized together, with the first of a stream among them too."""
    block = event("one") + event("two", obfuscation="aB3") + event('th"ree', usage=None)
    assert TextEvents().read(block)
    assert after_one().read(block)


@pytest.mark.parametrize(
    "other",
    [
        event(finish="stop"),
        event(error={"message": "It broke."}),
        event(usage={"prompt_tokens": 1}),
        event().replace(b'"index":0', b'"index":1'),
        event().replace(b'"logprobs":null', b'"logprobs":null},{"index":1,"delta":{"content":"b"}'),
        event().replace(b'"finish_reason":null', b'"finish_reason":"error"'),
        b"data: [DONE]\n\n",
        b"event: error\ndata: {}\n\n",
        b": a comment\n\n",
        event()[:-2],
        event()[:60] + b"\n\n",
    ],
)
def test_what_says_more_is_looked_at(other: bytes) -> None:
    """An end, an error, counts, another choice or half an event is never taken for text, alone or in a block."""
    texts = after_one()
    assert not texts.read(event() + other)
    assert not texts.read(other + event())
    assert other == event(usage={"prompt_tokens": 1}) or not texts.read(other)


def test_a_new_form_is_learned() -> None:
    """A stream whose events begin otherwise from one on is recognized from there."""
    texts = after_one()
    late = event("late").replace(b"chatcmpl-1", b"chatcmpl-2")
    assert texts.read(late)
    assert texts.read(late * 3)


@pytest.mark.parametrize(
    "text", ["more", "", 'a "quoted" word', "back\\slash", "line\nbreak", "\u0416\u0416", "x" * 99]
)
def test_measured_texts_count_as_those_that_are_looked_for(text: str) -> None:
    """The estimate of a stream's tokens is the same whether its events were recognized or not."""
    block = event(text) + event("and") + event(text, usage=None)
    measured, searched = (
        UsageMeter("/chat/completions", wants_usage_chunk=True, num_prompt_tokens=1) for _ in range(2)
    )
    read = after_one().read(block)

    assert isinstance(read, TextBlock)
    assert measured.watch(read) == searched.watch(block) == block
    assert measured.usage == searched.usage
