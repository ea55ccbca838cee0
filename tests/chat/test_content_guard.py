"""Special tokens that a message quotes are marked, and nothing else of it is changed."""

import json
from typing import Any

import pytest

from handler.chat.content_guard import ContentGuard
from handler.errors import ContextLengthError
from tests.fake_worker import fake_worker


def protected(message: dict[str, Any]) -> dict[str, Any]:
    guard = ContentGuard(lambda: ["<end>", "<endless>", "["])
    [marked] = guard.protect([message], 100)
    without: dict[str, Any] = json.loads(json.dumps(marked).replace(guard.guard, "^"))
    return without


@pytest.mark.parametrize(
    ("content", "marked"),
    [
        ("hello", "hello"),
        ("<end>", "<^end>"),
        ("a<end><end>b", "a<^end><^end>b"),
        ("<endless>", "<^endless>"),
        ("<en<end>d>", "<en<^end>d>"),
        ("[x", "[^x"),
        (None, None),
        ([{"type": "text", "text": "<end>"}], [{"type": "text", "text": "<^end>"}]),
    ],
)
def test_content(content: object, marked: object) -> None:
    """The longest token at a place is marked, wherever the text stands."""
    assert protected({"role": "user", "content": content}) == {"role": "user", "content": marked}


def test_calls_and_results() -> None:
    """Texts within them are the client's too; what says which is which is not."""
    call = {"id": "<end>", "type": "function", "function": {"name": "f", "arguments": '{"a": "<end>"}'}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    marked = protected(message)["tool_calls"][0]
    assert marked["function"]["arguments"] == '{"a": "<^end>"}'
    assert marked["id"] == "<end>"


def test_the_original_stays() -> None:
    """Requests are not changed by being answered."""
    message = {"role": "user", "content": "<end>"}
    ContentGuard(lambda: ["<end>"]).protect([message], 100)
    assert message == {"role": "user", "content": "<end>"}


def test_more_than_a_prompt_may_have() -> None:
    """Are refused before anything is rendered, and the work is bounded."""
    messages = [{"role": "user", "content": "<end>" * 60}] * 2
    with pytest.raises(ContextLengthError, match="maximum context length is 100 tokens"):
        ContentGuard(lambda: ["<end>"]).protect(messages, 100)


async def test_an_answer() -> None:
    """The model sees the text as it was sent."""
    with fake_worker({"a <control> b>": "Fine."}) as worker:
        answer = await worker.chat("a <control> b")
    assert answer["choices"][0]["message"]["content"] == "Fine."
    assert answer["usage"]["prompt_tokens"] == len("a <control> b>")
