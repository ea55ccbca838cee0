"""The chat in a terminal: what it remembers, what it shows, what it sends, and what Ctrl-C does."""

import asyncio
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from rich.console import Console

from local_gateway.commands.chat import COMMANDS, Terminal, answer_pipe
from local_gateway.commands.chat_client import ChatError
from local_gateway.commands.chat_session import Conversation, Message, Piece, Price, Reply, Usage, split_command
from local_gateway.commands.chat_view import AnswerView
from local_gateway.commands.markdown_blocks import MarkdownBlocks
from tests.gateway.fake_openai import FakeOpenAI, Received
from tests.gateway.fake_openai import Reply as Sent
from tests.gateway.terminal import CTRL_C, CTRL_D, ROOT, in_terminal, screen
from tests.gateway.wire_samples import text_events

URL = "http://127.0.0.1:8000/v1"
MARKDOWN = """# Llamas

They **hum**:

1. one

   still one
2. two

```python
def hum():

    return "mmm"
```
The end.
"""

# A conversation


def test_what_is_sent() -> None:
    """Instructions first, then all turns, then the question."""
    conversation = Conversation("llama", system="Be brief.")
    conversation.answered("Hi", "Hello")

    assert [message["content"] for message in conversation.messages("Who?")] == ["Be brief.", "Hi", "Hello", "Who?"]
    assert len(conversation.turns) == 2


def test_a_question_is_asked_again_without_its_answer() -> None:
    """Else the model would see the answer that was not liked."""
    conversation = Conversation("llama")
    conversation.last_question = "Hi"
    conversation.answered("Hi", "Hello")

    assert conversation.begin_again() == "Hi"
    assert conversation.turns == []


def test_a_question_without_an_answer_is_asked_again() -> None:
    """The turns before it stay."""
    conversation = Conversation("llama")
    conversation.answered("Hi", "Hello")
    conversation.last_question = "Who?"

    assert conversation.begin_again() == "Who?"
    assert len(conversation.turns) == 2


@pytest.mark.parametrize(
    ("line", "command"),
    [("Hi /all", ("", "Hi /all")), ("/model gpt-4o ", ("model", "gpt-4o")), ("/quit", ("quit", "")), ("", ("", ""))],
)
def test_commands(line: str, command: tuple[str, str]) -> None:
    """A slash at the beginning makes a command."""
    assert split_command(line) == command


# An answer


def reply_of(*pieces: Piece) -> Reply:
    """Asked at 1.0; the pieces came one second apart from each other."""
    reply = Reply("llama", asked_at=1.0)
    for now, piece in enumerate(pieces, start=2):
        reply.add(piece, now)
    reply.end(2 + len(pieces))
    return reply


def test_what_an_answer_cost() -> None:
    """Tokens, times and money, once they are known."""
    reply = reply_of(Piece("Hi"), Piece(usage=Usage(1000, 9)))

    assert reply.summary(Price(0.000001, 0.000002)) == (
        "llama · 1000 + 9 tokens · first after 1.00 s · 4 tokens/s · cost 0.001018"
    )
    assert reply.summary(None).endswith("4 tokens/s")


def test_what_is_not_known_is_not_shown() -> None:
    """Not every target counts tokens, and an answer may have been stopped before it began."""
    reply = Reply("llama", asked_at=1.0)
    reply.end(5.0, is_stopped=True)

    assert reply.summary(Price()) == "llama · stopped"


def test_who_is_waited_for() -> None:
    """A cold start takes minutes, thinking too: one sees that it goes on."""
    reply = Reply("llama", asked_at=1.0)
    assert reply.status(43.0) == "waiting for llama · 42 s"
    reply.add(Piece(thought="Well then"), 44.0)
    assert reply.status(45.0) == "llama is thinking · 2 words · 44 s"
    assert reply.first_at == 44.0


def test_an_answer_does_not_steer_the_terminal() -> None:
    """A model may repeat what somebody has written on a web page."""
    reply = Reply("llama", asked_at=0.0)

    assert reply.add(Piece("a\x1b]52;c;AAAA\x07b\r\n\tc\x9b2J"), 1.0) == "a]52;c;AAAAb\n\tc2J"


# What is shown of it


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_blocks(size: int) -> None:
    """However the text comes, it is cut where one thing ends and another begins, and nothing is lost."""
    blocks = MarkdownBlocks()
    pieces = [MARKDOWN[start : start + size] for start in range(0, len(MARKDOWN), size)]
    finished = [block for piece in pieces for block in blocks.feed(piece)]

    assert "".join(finished) + blocks.rest == MARKDOWN
    assert [block.split("\n")[0] for block in finished] == ["# Llamas", "They **hum**:", "1. one", "```python"]
    assert blocks.rest == "The end.\n"


def console_of(out: io.StringIO, height: int = 20) -> Console:
    now = iter(range(1_000_000))
    return Console(
        file=out, force_terminal=True, width=100, height=height, color_system=None, highlight=False,
        get_time=lambda: float(next(now)), legacy_windows=False,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("height", [6, 20])
def test_a_growing_answer(size: int, height: int) -> None:
    """At its end all of it is there, once, and nothing else, also in a terminal that it does not fit in."""
    out = io.StringIO()
    reply = Reply("llama", asked_at=0.0)
    with AnswerView(console_of(out, height), reply) as view:
        for start in range(0, len(MARKDOWN), size):
            view.add(reply.add(Piece(MARKDOWN[start : start + size]), 1.0))

    lines = [line.strip() for line in screen(out.getvalue())]
    assert lines == [
        "Llamas", "", "They hum:", "", "1 one", "still one", "2 two", "",
        "def hum():", "", 'return "mmm"', "", "The end.",
    ]  # fmt: skip


def test_an_answer_before_it_begins() -> None:
    """The first picture says who is waited for; nothing of it stays."""
    out = io.StringIO()
    with AnswerView(console_of(out), Reply("llama", asked_at=0.0)):
        pass

    assert "waiting for llama" in out.getvalue()
    assert screen(out.getvalue()) == [""]


# A person at the keyboard


class FakeClient:
    """Answers every question with the same pieces, an error, or Ctrl-C."""

    def __init__(self, *pieces: Piece | BaseException) -> None:
        self.pieces = pieces
        self.asked: list[tuple[str, list[str]]] = []
        self.num_left = 0

    def models(self) -> dict[str, Price | None]:
        return {"llama": None, "gpt-4o": Price(0.001, 0.002), "new": None}

    @contextmanager
    def answer(self, model: str, messages: Sequence[Message]) -> Iterator[Iterator[Piece]]:
        self.asked.append((model, [message["content"] for message in messages]))
        try:
            yield self._pieces()
        finally:
            self.num_left += 1

    def _pieces(self) -> Iterator[Piece]:
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece


def typed(*lines: str | BaseException) -> Callable[[str], str]:
    """A person who types these, and then Ctrl-D."""
    left = iter([*lines, EOFError()])

    def read_line(_prompt: str) -> str:
        line = next(left)
        if isinstance(line, BaseException):
            raise line
        return line

    return read_line


def chat(client: FakeClient, *lines: str | BaseException) -> str:
    """What the terminal shows afterwards."""
    out = io.StringIO()
    prices: dict[str, Price | None] = {"llama": None, "gpt-4o": Price(0.001, 0.002)}
    Terminal(client, Conversation("llama"), prices, console_of(out, 100), typed(*lines)).run(URL)
    return "\n".join(screen(out.getvalue()))


def test_a_conversation() -> None:
    """Each question goes with what was said before; each answer is followed by its figures."""
    client = FakeClient(Piece("Hello"), Piece("!"), Piece(usage=Usage(3, 2)))

    shown = chat(client, "Hi", "", "Who?")

    assert client.asked == [("llama", ["Hi"]), ("llama", ["Hi", "Hello!", "Who?"])]
    assert shown.startswith(f"llama at {URL}\n/help lists the commands.")
    assert shown.count("Hello!\n\nllama · 3 + 2 tokens · first after") == 2


def test_another_model() -> None:
    """Goes on with the same conversation; its price is known."""
    client = FakeClient(Piece("Hello"), Piece(usage=Usage(3, 2)))

    shown = chat(client, "Hi", "/model gpt-4o", "Who?", "/model other", "/models")

    assert client.asked[1] == ("gpt-4o", ["Hi", "Hello", "Who?"])
    assert "cost 0.007" in shown
    assert "other (which is not in /models) answers." in shown
    assert "  llama\n  gpt-4o\n  new" in shown


def test_ctrl_c_stops_the_answer() -> None:
    """What has come stays, also in the conversation; the client lets go of the rest."""
    client = FakeClient(Piece("Once upon"), KeyboardInterrupt())

    shown = chat(client, "Hi", "Who?")

    assert client.num_left == 2
    assert client.asked[1] == ("llama", ["Hi", "Once upon", "Who?"])
    assert "Once upon\n\nllama · first after" in shown
    assert "stopped" in shown


def test_ctrl_c_before_the_answer() -> None:
    """Leaves no trace in the conversation."""
    client = FakeClient(KeyboardInterrupt())

    chat(client, "Hi", "Who?")

    assert client.asked[1] == ("llama", ["Who?"])


def test_ctrl_c_at_the_prompt() -> None:
    """Takes back the line, and says how to leave."""
    client = FakeClient(Piece("Hello"))

    assert "Ctrl-D leaves.\n" in chat(client, KeyboardInterrupt(), "Hi")
    assert len(client.asked) == 1


def test_an_error() -> None:
    """Is shown, forgotten, and the question can be asked again."""
    client = FakeClient(ChatError("Slow down."))

    shown = chat(client, "Hi", "/retry", "Who?")

    assert shown.count("Slow down. /retry asks again.") == 3
    assert [asked[1] for asked in client.asked] == [["Hi"], ["Hi"], ["Who?"]]


def test_the_gateway_is_gone_when_models_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chat goes on."""
    client = FakeClient(Piece("Hello"))

    def fail() -> dict[str, Price | None]:
        raise ChatError("There is no gateway.")

    monkeypatch.setattr(client, "models", fail)

    assert "There is no gateway.\n" in chat(client, "/models", "Hi")
    assert len(client.asked) == 1


def test_instructions_and_a_new_beginning() -> None:
    """/system goes with every question; /clear forgets all turns, and there is nothing to ask again."""
    client = FakeClient(Piece("Hello"))

    shown = chat(
        client, "Hi", "/system Be brief.", "/clear", "/retry", "Who?", "/system", "/nonsense", "/help", "/quit", "x"
    )

    assert [asked[1] for asked in client.asked] == [["Hi"], ["Be brief.", "Who?"]]
    assert "There is no question yet." in shown
    assert "There are no instructions now." in shown
    assert "There is no command /nonsense; /help lists them." in shown
    assert all(line in shown for line in COMMANDS.values())


# Through a pipe


def test_a_pipe_gets_the_text_alone() -> None:
    """All of it is one question, and nothing decorates the answer."""
    out = io.StringIO()
    client = FakeClient(Piece(thought="Well"), Piece("**Hel"), Piece("lo**"), Piece(usage=Usage(1, 2)))

    answer_pipe(client, Conversation("llama", system="Be brief."), "Hi\nthere\n", out)

    assert out.getvalue() == "**Hello**\n"
    assert client.asked == [("llama", ["Be brief.", "Hi\nthere"])]


def test_an_empty_pipe() -> None:
    """There is nothing to ask."""
    with pytest.raises(ChatError, match="There is no question"):
        answer_pipe(FakeClient(), Conversation("llama"), " \n", io.StringIO())


# The whole, as a process


def chat_command(url: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "local_gateway", "chat", "--url", url, *args]


def environment() -> dict[str, str]:
    names = ("PATH", "HOME")
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}  # not for this machine
    return {name: os.environ[name] for name in names} | {"TERM": "xterm", "GATEWAY_API_KEY": "lg-secret"} | proxy


async def run_chat(url: str, *args: str, question: str = "Hi") -> tuple[int, str, str]:
    """Through a pipe: exit status, answer, errors."""
    process = await asyncio.create_subprocess_exec(
        *chat_command(url, *args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )
    out, err = await process.communicate(question.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_piped() -> None:
    """The first model of the gateway answers; the key from the environment is sent."""
    async with FakeOpenAI() as gateway:
        status, out, err = await run_chat(gateway.url)
        sent = gateway.received[-1]

    assert (status, err) == (0, "")
    assert out.endswith("\n")
    assert out.strip()
    assert sent.json["model"] == "model"
    assert sent.headers["authorization"] == "Bearer lg-secret"


async def test_an_error_in_a_pipe() -> None:
    """One line, in the gateway's words, and exit status 1."""

    def script(request: Received) -> Sent:
        return Sent.error(404, "The model `x` does not exist.") if request.method == "POST" else Sent.json({"data": []})

    async with FakeOpenAI(script) as gateway:
        assert await run_chat(gateway.url, "x") == (1, "", "error: The model `x` does not exist.\n")
        status, _, err = await run_chat(gateway.url)
    assert (status, err) == (1, f"error: The gateway at {gateway.url} has no model for you.\n")


async def test_no_gateway() -> None:
    """Says where one was looked for, and what to do."""
    async with FakeOpenAI() as gateway:
        url = gateway.url
    assert await run_chat(url) == (1, "", f"error: There is no gateway at {url}. Start one (make run), or say --url.\n")


@pytest.mark.parametrize("body", [b"<html>Hello</html>", b"{}", b"[]", b'{"data": [{}]}'])
async def test_something_else_at_the_address(body: bytes) -> None:
    """Is said, without a traceback."""
    async with FakeOpenAI(lambda _: Sent([body], headers={"content-type": "application/json"})) as gateway:
        status, out, err = await run_chat(gateway.url)

    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: ")


async def test_in_a_terminal() -> None:
    """Ctrl-C stops an answer within it and before it, so that the gateway stops too; Ctrl-D leaves in silence."""
    hold = asyncio.Event()

    def script(request: Received) -> Sent:
        if request.method == "GET":
            return Sent.json({"object": "list", "data": [{"id": "llama", "object": "model"}]})
        match request.json["messages"][-1]["content"]:
            case "endless":
                return Sent([*text_events("Once", "upon")[:3], hold])
            case "silent":
                return Sent(held=hold)
        return Sent(text_events("Hello"))

    async with FakeOpenAI(script) as gateway:
        with in_terminal(chat_command(gateway.url), environment()) as terminal:
            await terminal.until("> ")
            terminal.type("Hi\n")
            await terminal.until("Hello")
            await terminal.until("> ")
            terminal.type("endless\n")
            await terminal.until("Once")
            terminal.type(CTRL_C)
            await terminal.until("stopped")
            terminal.type("silent\n")
            await terminal.until("waiting for llama")
            await gateway.until(lambda: len(gateway.received) == 4)
            terminal.type(CTRL_C)
            await terminal.until("stopped")
            await gateway.until(lambda: len(gateway.left) == 2)
            await terminal.until("> ")
            terminal.type(CTRL_D)

            assert await terminal.end() == 0
        hold.set()

    assert "Traceback" not in terminal.output
    assert "lg-secret" not in terminal.output
