"""`python -m local_gateway chat`: a conversation, question by question."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from local_gateway.commands.chat import Chat, ChatError, waiting_text
from tests.gateway.targets.on_socket import FakeOpenAI, Received, Script
from tests.gateway.targets.on_socket import Reply as Sent
from tests.gateway.wire_samples import text_events


def answering(*words: str) -> Script:
    def script(request: Received) -> Sent:
        if request.method == "GET":
            return Sent.json({"object": "list", "data": [{"id": "llama", "object": "model"}]})
        return Sent(text_events(*words))

    return script


@asynccontextmanager
async def chatting(url: str, system: str = "") -> AsyncIterator[Chat]:
    chat = await asyncio.to_thread(Chat, url, "", None, system)
    with closing(chat):
        yield chat


async def ask(chat: Chat, question: str) -> tuple[str, str]:
    """The text that was written, and the line of figures."""
    written: list[str] = []
    figures = await asyncio.to_thread(chat.answer, question, written.append)
    return "".join(written), figures


async def test_each_question_goes_with_the_conversation() -> None:
    """Instructions first, then all turns, then the question."""
    async with FakeOpenAI(answering("Hello")) as gateway, chatting(gateway.url, "Be brief.") as chat:
        await ask(chat, "Hi")
        await ask(chat, "And you?")
        sent = gateway.received[-1].json["messages"]

    assert [message["content"] for message in sent] == ["Be brief.", "Hi", "Hello", "And you?"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]


async def test_a_question_is_asked_again_without_its_answer() -> None:
    """The model must not see the answer that was not liked."""
    async with FakeOpenAI(answering("Hello")) as gateway, chatting(gateway.url) as chat:
        await ask(chat, "Hi")

        assert chat.rewind() == "Hi"
        assert chat.turns == []


async def test_a_failed_question_is_asked_again() -> None:
    """It left no trace in the conversation; the turns before it stay."""
    async with FakeOpenAI(answering("Hello")) as gateway, chatting(gateway.url) as chat:
        await ask(chat, "Hi")
        before = list(chat.turns)
        gateway.script = lambda _: Sent.error(429, "Slow down.")
        with pytest.raises(ChatError, match="Slow down"):
            await ask(chat, "Again?")

    assert chat.turns == before
    assert chat.rewind() == "Again?"


async def test_figures_follow_an_answer() -> None:
    """The model, the first token's latency; an answer that was not stopped does not say so."""
    async with FakeOpenAI(answering("Hello")) as gateway, chatting(gateway.url) as chat:
        _, figures = await ask(chat, "Hi")

    assert figures.startswith("llama · ")
    assert "first after" in figures
    assert "stopped" not in figures


async def test_an_answer_does_not_steer_the_terminal() -> None:
    """A model may repeat what a web page told it."""
    async with FakeOpenAI(answering("\x1b[2J", "Hello\x07")) as gateway, chatting(gateway.url) as chat:
        written, _ = await ask(chat, "Hi")

    assert written == "[2JHello"


def test_a_long_wait_is_counted() -> None:
    """A cold start takes a minute: a person must see that it goes on."""
    assert waiting_text("llama", 4.9) == "waiting for llama"
    assert waiting_text("llama", 42.4) == "waiting for llama, 42 s: its worker may be starting"
