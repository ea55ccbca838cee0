"""What a chat is, whoever shows it: the conversation, an answer as it grows, and the commands. Pure."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

Message = dict[str, str]  # OpenAI's: role and content

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but line ends and tabs


class Price(NamedTuple):
    """Per token, in the gateway's currency."""

    prompt: float = 0.0
    completion: float = 0.0


class Usage(NamedTuple):
    num_prompt_tokens: int
    num_completion_tokens: int


class Piece(NamedTuple):
    """What one event of a stream brings: any of these."""

    text: str = ""
    thought: str = ""
    usage: Usage | None = None


@dataclass
class Reply:
    """An answer as it grows. Times are seconds on one clock."""

    model: str
    asked_at: float
    text: str = ""
    num_thought_words: int = 0
    usage: Usage | None = None
    first_at: float | None = None  # of the first text or thought
    ended_at: float | None = None
    is_stopped: bool = False

    def add(self, piece: Piece, now: float) -> str:
        """The piece's new text, without what could steer a terminal."""
        text = CONTROL.sub("", piece.text)
        self.text += text
        self.num_thought_words += len(piece.thought.split())
        self.usage = piece.usage or self.usage
        if self.first_at is None and (piece.text or piece.thought):
            self.first_at = now
        return text

    def end(self, now: float, *, is_stopped: bool = False) -> None:
        self.ended_at, self.is_stopped = now, is_stopped

    def status(self, now: float) -> str:
        """For somebody who waits."""
        seconds = f"{now - self.asked_at:.0f} s"
        if self.num_thought_words:
            return f"{self.model} is thinking · {self.num_thought_words} words · {seconds}"
        return f"waiting for {self.model} · {seconds}"

    def summary(self, price: Price | None) -> str:
        """Tokens, times and cost, as far as they are known."""
        parts = [self.model, *self._counts(), *self._times(), *self._cost(price)]
        return " · ".join([*parts, "stopped"] if self.is_stopped else parts)

    def _counts(self) -> list[str]:
        return [f"{self.usage.num_prompt_tokens} + {self.usage.num_completion_tokens} tokens"] if self.usage else []

    def _times(self) -> list[str]:
        if self.first_at is None or self.ended_at is None:
            return []
        times = [f"first after {self.first_at - self.asked_at:.2f} s"]
        seconds = self.ended_at - self.first_at
        if self.usage and self.usage.num_completion_tokens > 1 and seconds > 0:
            times.append(f"{(self.usage.num_completion_tokens - 1) / seconds:.0f} tokens/s")
        return times

    def _cost(self, price: Price | None) -> list[str]:
        if price is None or self.usage is None:
            return []
        cost = price.prompt * self.usage.num_prompt_tokens + price.completion * self.usage.num_completion_tokens
        return [f"cost {cost:.6f}".rstrip("0").rstrip(".")]


@dataclass
class Conversation:
    """Questions and answers in turn. A question that got no answer is not in it, but can be asked again."""

    model: str
    system: str = ""
    turns: list[Message] = field(default_factory=list)
    last_question: str = ""

    def messages(self, question: str) -> list[Message]:
        """What is sent to ask this."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns, {"role": "user", "content": question}]

    def answered(self, question: str, answer: str) -> None:
        self.turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def begin_again(self) -> str:
        """The last question, as if it had not been answered; empty if there is none."""
        if self.turns and self.turns[-2]["content"] == self.last_question:
            del self.turns[-2:]
        return self.last_question

    def clear(self) -> None:
        self.turns.clear()
        self.last_question = ""


def split_command(line: str) -> tuple[str, str]:
    """The command without its slash, and the rest. Of a line that is none: empty, and the line."""
    if not line.startswith("/"):
        return "", line
    command, _, rest = line[1:].partition(" ")
    return command, rest.strip()
