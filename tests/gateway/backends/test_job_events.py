"""What workers put out as a stream, as events: each as soon as it is whole."""

import json
from typing import Any

import pytest

from local_gateway.backends.runpod.job_events import JobEvents, begins_stream
from local_gateway.errors import AnswerBrokenError


def chunk(text: str, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return {"id": "c", "object": "chat.completion.chunk", "choices": choices, **more}


def event(text: str) -> str:
    return f"data: {json.dumps(chunk(text))}\n\n"


DONE = "data: [DONE]\n\n"
HELLO = ["he", "l", "lo"]


def texts_of(*outputs: object) -> list[str]:
    """The texts of the events, and the end, each as it comes out."""
    stream = JobEvents()
    told = []
    for output in outputs:
        for each in stream.feed([output]):
            found = each.chunk
            told.append(found["choices"][0]["delta"]["content"] if isinstance(found, dict) else "end")
    assert stream.rest == b""
    return told


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param([*map(event, HELLO), DONE], id="an event each"),
        pytest.param([event("he") + event("l"), event("lo") + DONE], id="batches"),
        pytest.param([*(event(text).rstrip() for text in HELLO), DONE.rstrip()], id="A6-without-line-ends"),
        pytest.param([*(event(text).rstrip() + "\n" for text in HELLO), DONE.rstrip()], id="A6-half-line-ends"),
        pytest.param([part for text in HELLO for part in (event(text).rstrip(), "\n\n")] + [DONE], id="A6-ends-later"),
        pytest.param([*map(event, HELLO), "data: [DONE]"], id="A8-ollama"),
        pytest.param([*map(chunk, HELLO), DONE], id="A4-objects"),
        pytest.param([[chunk("he"), chunk("l")], [chunk("lo")], DONE], id="A4-lists"),
        pytest.param([*(json.dumps(chunk(text)) for text in HELLO), DONE], id="A4-objects-as-text"),
        pytest.param([json.dumps(chunk(text)) + "\n" for text in HELLO] + [DONE], id="A4-lines"),
        pytest.param([[event("he")], [event("l"), chunk("lo")], DONE], id="A4-mixed"),
        pytest.param(["".join([*map(event, HELLO), DONE])], id="all at once"),
    ],
)
def test_a_stream(outputs: list[object]) -> None:
    """gateway.md A4, A6, A8."""
    assert texts_of(*outputs) == [*HELLO, "end"]
    assert begins_stream(outputs[0][0] if isinstance(outputs[0], list) else outputs[0])


@pytest.mark.parametrize("size", [1, 3, 50])
def test_text_that_is_cut_anywhere(size: int) -> None:
    """The bytes stay as they were."""
    text = "".join([*map(event, ["he", "é", "data: {"]), DONE])
    stream = JobEvents()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]

    assert b"".join(each.raw for piece in pieces for each in stream.feed([piece])).decode() == text


def test_an_event_comes_at_once() -> None:
    """Not only when the next one shows that it has ended."""
    stream = JobEvents()

    assert [each.raw for each in stream.feed([event("he").rstrip()])] == [event("he").encode()]


def test_typed_events() -> None:
    """Of Responses and Messages as objects: with the line that names them."""
    (told,) = JobEvents().feed([{"type": "response.created", "response": {}}])

    assert told.raw == b'event: response.created\ndata: {"type":"response.created","response":{}}\n\n'


@pytest.mark.parametrize("follower", [event("x"), chunk("x")])
def test_an_event_without_its_end(follower: object) -> None:
    """A part that is missing is an error, never a gap."""
    stream = JobEvents()
    assert list(stream.feed([event("he")[:30]])) == []
    with pytest.raises(AnswerBrokenError, match="A part of an event is missing"):
        list(stream.feed([follower]))


@pytest.mark.parametrize(
    "output",
    [
        '{"object": "chat.completion"}',
        {"object": "chat.completion", "choices": [{"message": {"content": "x"}}]},
        {"error": "No."},
        {"object": "list", "data": []},
        {"choices": []},
        "hello",
        None,
        [],
    ],
)
def test_what_is_no_stream(output: object) -> None:
    """Whole answers and errors."""
    assert not begins_stream(output)
