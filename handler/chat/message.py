"""An answer's events as the message that a client gets."""

from collections.abc import Callable, Iterable
from typing import Any

from handler.chat.events import Arguments, CallBegun, CallEnded, Content, Event, Reasoning


class MessageBuilder:
    """Folds events into one assistant's message. `make_id` gives each call its id, from its number."""

    def __init__(self, make_id: Callable[[int], str]) -> None:
        self._make_id = make_id
        self._texts: dict[type, list[str]] = {Reasoning: [], Content: []}
        self._calls: list[tuple[str, list[str]]] = []
        self._num_ended = 0

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Reasoning(text) | Content(text):
                    self._texts[type(event)].append(text)
                case CallBegun(_, name):
                    self._calls.append((name, []))
                case Arguments(call, text):
                    self._calls[call][1].append(text)
                case CallEnded():
                    self._num_ended += 1

    @property
    def finish_reason(self) -> str:
        """OpenAI's word for why an answer ended that ended by itself, as far as its text says."""
        if self._num_ended < len(self._calls):
            return "length"
        return "tool_calls" if self._calls else "stop"

    def message(self) -> dict[str, Any]:
        content, reasoning = "".join(self._texts[Content]), "".join(self._texts[Reasoning])
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if self._calls else "")}
        if reasoning:
            message["reasoning_content"] = reasoning
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": self._make_id(number),
                    "type": "function",
                    "function": {"name": name, "arguments": "".join(arguments)},
                }
                for number, (name, arguments) in enumerate(self._calls)
            ]
        return message
