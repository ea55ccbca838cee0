"""Chunks as server-sent events."""

import json

import pytest
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice, ChoiceDelta

from handler.api import sse
from handler.errors import EngineError, to_response


def chunk(delta: ChoiceDelta) -> ChatCompletionChunk:
    choice = Choice(index=0, delta=delta, finish_reason=None)
    return ChatCompletionChunk(id="1", created=0, model="m", object="chat.completion.chunk", choices=[choice])


def decode(event: str) -> object:
    """The one event's data; a line break within it would end it early."""
    assert event.startswith("data: ")
    assert event.endswith("\n\n")
    assert len(event.split("\n")) == 3
    return json.loads(event.removeprefix("data: "))


@pytest.mark.parametrize("text", ["", "a\nb\r\n\r\nc", "\u2028", "data: [DONE]\n\n", "Zürich 東京 🦙"])
def test_any_text_is_one_event(text: str) -> None:
    """Whatever the model writes stays inside of its event."""
    data = decode(sse.encode(chunk(ChoiceDelta(content=text))))

    assert ChatCompletionChunk.model_validate(data).choices[0].delta.content == text


@pytest.mark.parametrize("text", ["", 'say "hi" \\ \n', "\u2028\x00\x7f", "Zürich 東京 🦙", "</script>"])
def test_a_mould_makes_what_encoding_would(text: str) -> None:
    """Byte for byte, whatever the text."""
    mould = sse.EventTemplate(lambda text: sse.encode(chunk(ChoiceDelta(content=text))))

    assert mould.encode(text) == sse.encode(chunk(ChoiceDelta(content=text)))


def test_unset_fields_stay_out_and_none_is_null() -> None:
    """Clients tell a field that is absent from one that is null."""
    data = decode(sse.encode(chunk(ChoiceDelta(content="a"))))

    assert data == {
        "id": "1",
        "created": 0,
        "model": "m",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}],
    }


def test_an_error_ends_the_stream() -> None:
    """An error is OpenAI's body in an event, and the last."""
    event, done = sse.encode_error(to_response(EngineError("Broken.")).body).split("\n\n", maxsplit=1)

    assert decode(event + "\n\n") == to_response(EngineError("Broken.")).body
    assert done == sse.DONE


def test_errors_are_told_from_chunks() -> None:
    """Also from a chunk whose text is an error."""
    error = sse.encode_error(to_response(EngineError("Broken.")).body)

    assert sse.is_error(error)
    assert not sse.is_error(sse.encode(chunk(ChoiceDelta(content=error))))
    assert not sse.is_error(sse.DONE)
