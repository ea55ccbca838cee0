"""`python -m local_gateway chat`: talk to a model in a terminal, or through a pipe."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from typing import Protocol, TextIO

from rich.console import Console
from rich.markup import escape

from local_gateway.commands.chat_client import ChatClient, ChatError
from local_gateway.commands.chat_session import Conversation, Message, Piece, Price, Reply, split_command
from local_gateway.commands.chat_view import AnswerView

PROMPT = "\001\033[1;36m\002>\001\033[0m\002 "  # \001 and \002 tell readline what has no width
COMMANDS = {
    "model": "/model NAME     another model answers from now on",
    "models": "/models         the gateway's models",
    "system": "/system TEXT    instructions for the whole conversation; without TEXT: none",
    "retry": "/retry          ask the last question again",
    "clear": "/clear          forget the conversation",
    "help": "/help           this list",
    "quit": "/quit           leave; Ctrl-D too",
}


class Client(Protocol):
    """What `ChatClient` does."""

    def models(self) -> dict[str, Price | None]: ...

    def answer(self, model: str, messages: Sequence[Message]) -> AbstractContextManager[Iterator[Piece]]: ...


def run(url: str, key: str, model: str | None, system: str) -> int:
    """Until the person leaves; of a pipe, one answer to all of it. Raises ChatError if there is no gateway."""
    with closing(ChatClient(url, key)) as client:
        prices = client.models()
        if not (model := model or next(iter(prices), None)):
            raise ChatError(f"The gateway at {url} has no model for you.")
        conversation = Conversation(model, system)
        if sys.stdin.isatty() and sys.stdout.isatty():
            Terminal(client, conversation, prices, Console(highlight=False), _line_reader([*prices])).run(url)
        else:
            answer_pipe(client, conversation, sys.stdin.read(), sys.stdout)
    return 0


def answer_pipe(client: Client, conversation: Conversation, question: str, out: TextIO) -> None:
    """Plain text, as it comes. Raises ChatError."""
    if not question.strip():
        raise ChatError("There is no question: type one after starting chat in a terminal, or pipe it in.")
    reply = Reply(conversation.model, asked_at=0.0)
    with client.answer(conversation.model, conversation.messages(question.strip())) as pieces:
        for piece in pieces:
            out.write(reply.add(piece, now=0.0))
            out.flush()
    out.write("" if reply.text.endswith("\n") else "\n")


class Terminal:
    """A person at a keyboard. `read_line` raises EOFError when that person leaves."""

    def __init__(
        self,
        client: Client,
        conversation: Conversation,
        prices: dict[str, Price | None],
        console: Console,
        read_line: Callable[[str], str],
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._prices = prices
        self._console = console
        self._read_line = read_line
        self._actions: dict[str, Callable[[str], None]] = {
            "model": self._switch_model,
            "models": lambda _: self._list_models(),
            "system": self._instruct,
            "retry": lambda _: self._retry(),
            "clear": lambda _: self._clear(),
            "help": lambda _: self._help(),
        }

    def run(self, url: str) -> None:
        self._console.print(f"[bold]{escape(self._conversation.model)}[/] at {escape(url)}")
        self._note("/help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.\n")
        with suppress(EOFError):
            while (command := split_command(self._read()))[0] != "quit":
                self._try(*command)
            return
        self._console.print()

    def _read(self) -> str:
        while True:
            try:
                return self._read_line(PROMPT).strip()
            except KeyboardInterrupt:
                self._note("\nCtrl-D leaves.")

    def _try(self, command: str, rest: str) -> None:
        try:
            self._obey(command, rest)
        except ChatError as error:
            self._complain(f"{error}\n")

    def _obey(self, command: str, rest: str) -> None:
        if not command:
            self._ask(rest)
        elif action := self._actions.get(command):
            action(rest)
        else:
            self._complain(f"There is no command /{command}; /help lists them.")

    def _ask(self, question: str) -> None:
        if not question:
            return
        self._conversation.last_question = question
        reply = Reply(self._conversation.model, asked_at=self._console.get_time())
        self._console.print()
        try:
            self._stream(question, reply)
        except ChatError as error:
            raise ChatError(f"{error} /retry asks again.") from error
        if reply.text or not reply.is_stopped:
            self._conversation.answered(question, reply.text)
        self._note(reply.summary(self._prices.get(reply.model)) + "\n")

    def _stream(self, question: str, reply: Reply) -> None:
        """Ctrl-C ends it; what has come stays."""
        now = self._console.get_time
        try:
            with (
                AnswerView(self._console, reply) as view,
                self._client.answer(reply.model, self._conversation.messages(question)) as pieces,
            ):
                for piece in pieces:
                    view.add(reply.add(piece, now()))
        except KeyboardInterrupt:
            reply.end(now(), is_stopped=True)
        else:
            reply.end(now())

    def _switch_model(self, name: str) -> None:
        if name:
            self._conversation.model = name
        listed = "" if self._conversation.model in self._prices else " (which is not in /models)"
        self._note(f"{self._conversation.model}{listed} answers.\n")

    def _list_models(self) -> None:
        self._prices = self._client.models()
        for name in self._prices:
            self._note(f"{'>' if name == self._conversation.model else ' '} {name}")
        self._console.print()

    def _instruct(self, text: str) -> None:
        self._conversation.system = text
        self._note("The instructions hold from now on.\n" if text else "There are no instructions now.\n")

    def _retry(self) -> None:
        if question := self._conversation.begin_again():
            self._note(f"> {question}")
            self._ask(question)
        else:
            self._complain("There is no question yet.")

    def _clear(self) -> None:
        self._conversation.clear()
        self._note("The conversation is forgotten.\n")

    def _help(self) -> None:
        self._note("\n".join(COMMANDS.values()) + "\n")

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)

    def _complain(self, text: str) -> None:
        self._console.print(text, style="red", markup=False)


def _line_reader(models: Sequence[str]) -> Callable[[str], str]:
    """`input`, with a history by the arrow keys, and names by the tab key. Nothing of it is kept on disk."""
    try:
        import readline  # noqa: PLC0415  # some Pythons are built without it
    except ImportError:
        return lambda _prompt: input("> ")
    words = [f"/{command}" for command in COMMANDS] + [f"/model {name}" for name in models]

    def complete(text: str, number: int) -> str | None:
        matches = [word for word in words if text and word.startswith(text)]
        return matches[number] if number < len(matches) else None

    readline.set_completer_delims("")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    return input
