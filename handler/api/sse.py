"""Server-sent events: one event a chunk, as OpenAI writes them."""

import json
import secrets
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

DONE = "data: [DONE]\n\n"


def encode(chunk: BaseModel) -> str:
    """Fields that were never set stay out; a field set to None is null."""
    return f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"


class EventTemplate:
    """Encodes events that differ in one text alone, wherever it stands in them: the rest is encoded once.

    `make` gives the event with a text in it, encoded. What comes out is what it would make of another text.
    """

    def __init__(self, make: Callable[[str], str]) -> None:
        placeholder = secrets.token_hex()
        self._parts = make(placeholder).split(f'"{placeholder}"')

    def encode(self, text: str) -> str:
        return to_json(text).decode().join(self._parts)


class NumberedTemplate:
    """The same, of events that have a number before the text; `make` is given a text in the number's place."""

    def __init__(self, make: Callable[[str, str], str]) -> None:
        number, text = secrets.token_hex(), secrets.token_hex()
        self._head, rest = make(number, text).split(f'"{number}"')
        self._middle, self._tail = rest.split(f'"{text}"')

    def encode(self, number: int, text: str) -> str:
        return f"{self._head}{number}{self._middle}{to_json(text).decode()}{self._tail}"


def encode_named(event: dict[str, Any]) -> str:
    """An event of Responses or Messages: its type is its name, too."""
    return f"event: {event['type']}\ndata: {to_json(event).decode()}\n\n"


def encode_error(body: dict[str, Any]) -> str:
    """An error after the first byte, which ends the stream."""
    return f"data: {json.dumps(body)}\n\n{DONE}"


def is_error(events: str) -> bool:
    """Whether text of whole events begins with an error's, in the form of chats, of Messages or of Responses."""
    return events.startswith(('data: {"error": ', "event: error\n", "event: response.failed\n"))
