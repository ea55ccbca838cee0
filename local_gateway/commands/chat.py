"""`python -m local_gateway chat`: talk to a model in a terminal, or through a pipe.

A client of the gateway like any other: it knows the OpenAI API and nothing of the gateway's inside.
"""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httpx2  # what openai raises when a connection breaks off within a stream
import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from local_gateway.errors import GatewayError, one_line

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROMPT = "\001\033[1;36m\002>\001\033[0m\002 "  # \001 and \002 tell readline what has no width
SHORT_WAIT = 5.0  # seconds that a worker which runs may take
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but line ends and tabs: models may repeat hostile text
HELP = """\
/model NAME     another model answers from now on
/models         the gateway's models
/system TEXT    instructions for the whole conversation; without TEXT: none
/retry          ask the last question again
/clear          forget the conversation
/help           this list
/quit           leave; Ctrl-D too
"""


class ChatError(GatewayError):
    """The gateway gave no answer, or only a part of one. The message says why, in one line."""


class Chat:
    """One conversation with one gateway. Failed questions are not part of it, but /retry asks them again."""

    def __init__(self, url: str, key: str, model: str | None, system: str) -> None:
        """Raises ChatError if no gateway answers at the URL, or if it has no model."""
        self.url = url
        self.system = system
        self.turns: list[dict[str, str]] = []
        self.question = ""
        # A proxy from the environment does not lead to this machine. The gateway retries, so the client does not.
        http = openai.DefaultHttpxClient(trust_env=urlsplit(url).hostname not in LOOPBACK)
        self._client = openai.OpenAI(base_url=url, api_key=key or "none", max_retries=0, http_client=http)
        try:
            self.models = self.list_models()
            if not self.models and not model:
                raise ChatError(f"The gateway at {url} has no model for you.")
        except BaseException:
            self.close()
            raise
        self.model = model or self.models[0]

    def close(self) -> None:
        self._client.close()

    def list_models(self) -> list[str]:
        """Model names in the gateway's order. Raises ChatError."""
        with self._chat_errors():
            return [model.id for model in self._client.models.list().data if model.id]

    def answer(self, question: str, write: Callable[[str], None]) -> str:
        """Ask, and write the text as it arrives. Returns a line of figures; Ctrl-C ends the answer and keeps its text.

        Raises ChatError; the conversation is unchanged then.
        """
        self.question = question
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.turns, {"role": "user", "content": question}]
        figures = Figures(self.model)
        text = ""
        with self._chat_errors(), suppress(KeyboardInterrupt):
            figures.is_stopped = True
            with self._client.chat.completions.create(
                model=self.model,
                messages=cast(list[ChatCompletionMessageParam], messages),
                stream=True,
                stream_options={"include_usage": True},
            ) as stream:
                for chunk in stream:
                    piece = figures.add(chunk)
                    text += piece
                    write(piece)
            figures.is_stopped = False
        if text or not figures.is_stopped:
            self.turns += [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        return str(figures)

    def rewind(self) -> str:
        """Take the last question and its answer out of the conversation; returns the question, empty if none."""
        if self.turns and self.turns[-2]["content"] == self.question:
            del self.turns[-2:]
        return self.question

    @contextmanager
    def _chat_errors(self) -> Iterator[None]:
        try:
            yield
        except openai.APITimeoutError as error:
            raise ChatError("The gateway did not answer in time.") from error
        except openai.APIConnectionError as error:
            raise ChatError(f"There is no gateway at {self.url}. Start one (make run), or say --url.") from error
        except openai.APIError as error:
            told = error.body.get("message") if isinstance(error.body, dict) else None
            raise ChatError(one_line(str(told or error.message))) from error
        except httpx2.HTTPError as error:
            raise ChatError("The connection to the gateway broke off.") from error
        except (ValueError, AttributeError, TypeError) as error:  # how openai meets what is not OpenAI's API
            raise ChatError(f"What answers at {self.url} does not speak OpenAI's API.") from error


class Figures:
    """Tokens and times of one answer. Times are seconds."""

    def __init__(self, model: str) -> None:
        self.is_stopped = False
        self._model = model
        self._asked = time.monotonic()
        self._first: float | None = None
        self._usage: Any = None

    def add(self, chunk: ChatCompletionChunk) -> str:
        """The chunk's text without control characters."""
        self._usage = chunk.usage or self._usage
        content = (chunk.choices[0].delta.content or "") if chunk.choices else ""
        if content and self._first is None:
            self._first = time.monotonic()
        return CONTROL.sub("", content)

    def __str__(self) -> str:
        parts = [self._model]
        if self._usage:
            parts.append(f"{self._usage.prompt_tokens} + {self._usage.completion_tokens} tokens")
        if self._first is not None:
            parts.append(f"first after {self._first - self._asked:.2f} s")
            seconds = time.monotonic() - self._first
            if self._usage and self._usage.completion_tokens > 1 and seconds > 0:
                parts.append(f"{(self._usage.completion_tokens - 1) / seconds:.0f} tokens/s")
        return " · ".join([*parts, "stopped"] if self.is_stopped else parts)


def run(url: str, key: str, model: str | None, system: str) -> int:
    """Until the terminal's user leaves; a pipe gets one answer to all of its text. Raises ChatError."""
    with closing(Chat(url, key, model, system)) as chat:
        if sys.stdin.isatty() and sys.stdout.isatty():
            _Terminal(chat, Console(highlight=False)).run()
            return 0
        question = sys.stdin.read().strip()
        if not question:
            raise ChatError("There is no question: type one after starting chat in a terminal, or pipe it in.")
        chat.answer(question, _write)
        _write("" if chat.turns[-1]["content"].endswith("\n") else "\n")
    return 0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class _Terminal:
    def __init__(self, chat: Chat, console: Console) -> None:
        self._chat = chat
        self._console = console

    def run(self) -> None:
        self._console.print(f"[bold]{escape(self._chat.model)}[/] at {escape(self._chat.url)}")
        self._note("/help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.\n")
        read_line = _line_reader(self._chat.models)
        while True:
            try:
                line = read_line(PROMPT).strip()
            except KeyboardInterrupt:
                self._note("\nCtrl-D leaves.")
                continue
            except EOFError:
                self._console.print()
                return
            if line == "/quit":
                return
            try:
                self._obey(line)
            except ChatError as error:
                self._complain(str(error))

    def _obey(self, line: str) -> None:
        chat = self._chat
        match line.split(maxsplit=1):
            case []:
                return
            case ["/model", name]:
                listed = "" if name in chat.models else " (which is not in /models)"
                chat.model = name
                self._note(f"{name}{listed} answers.\n")
            case ["/model"]:
                self._note(f"{chat.model} answers.\n")
            case ["/models"]:
                chat.models = chat.list_models()
                self._note("\n".join(f"{'>' if name == chat.model else ' '} {name}" for name in chat.models) + "\n")
            case ["/system", *text]:
                chat.system = "".join(text)
                self._note("The instructions hold from now on.\n" if text else "There are no instructions now.\n")
            case ["/retry"]:
                if question := chat.rewind():
                    self._note(f"> {question}")
                    self._ask(question)
                else:
                    self._complain("There is no question yet.")
            case ["/clear"]:
                chat.turns.clear()
                chat.question = ""
                self._note("The conversation is forgotten.\n")
            case ["/help"]:
                self._note(HELP)
            case [command, *_] if command.startswith("/"):
                self._complain(f"There is no command {command}; /help lists them.")
            case _:
                self._ask(line)

    def _ask(self, question: str) -> None:
        self._console.print()
        waiting = self._console.status(_Waiting(self._chat.model))
        with _Interrupt() as interrupt, waiting as status:

            def write(text: str) -> None:
                if text:
                    status.stop()
                    _write(text)
                interrupt.check()

            try:
                figures = self._chat.answer(question, write)
            except ChatError as error:
                raise ChatError(f"{error} /retry asks again.") from error
        self._note(f"\n\n{figures}\n")

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)

    def _complain(self, text: str) -> None:
        self._console.print(f"{text}\n", style="red", markup=False)


class _Waiting:
    """What is shown beside the spinner, each time that it turns."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._began = time.monotonic()

    def __rich__(self) -> Text:
        return Text(waiting_text(self._model, time.monotonic() - self._began), "dim")


def waiting_text(model: str, seconds: float) -> str:
    """With the seconds once they are many, and what may be the reason. The gateway's log knows it."""
    if seconds < SHORT_WAIT:
        return f"waiting for {model}"
    return f"waiting for {model}, {seconds:.0f} s: its worker may be starting"


class _Interrupt:
    """Ctrl-C while an answer comes. Remembered, because an interrupt can get lost: compiled code that parses a chunk
    may drop the exception, and the next read would then wait for ever."""

    def __enter__(self) -> Self:
        self._is_asked = False
        self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Raises KeyboardInterrupt if there was one."""
        if self._is_asked:
            raise KeyboardInterrupt

    def _ask(self, *_: object) -> None:
        self._is_asked = True
        raise KeyboardInterrupt


def _line_reader(models: list[str]) -> Callable[[str], str]:
    """`input` with a history by the arrow keys and names by the tab key. The history is never written to disk."""
    try:
        import readline  # noqa: PLC0415  # some Pythons are built without it
    except ImportError:
        return lambda _prompt: input("> ")
    words = [f"/{word}" for word in ("model", "models", "system", "retry", "clear", "help", "quit")]
    words += [f"/model {name}" for name in models]

    def complete(text: str, number: int) -> str | None:
        matches = [word for word in words if text and word.startswith(text)]
        return matches[number] if number < len(matches) else None

    readline.set_completer_delims("")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    return input
