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

    `make` gives the chunk with a text in it. What comes out is what `encode` would make of that chunk.
    """

    def __init__(self, make: Callable[[str], BaseModel]) -> None:
        placeholder = secrets.token_hex()
        self._parts = encode(make(placeholder)).split(f'"{placeholder}"')

    def encode(self, text: str) -> str:
        return to_json(text).decode().join(self._parts)


def encode_error(body: dict[str, Any]) -> str:
    """An error after the first byte, which ends the stream."""
    return f"data: {json.dumps(body)}\n\n{DONE}"


def is_error(events: str) -> bool:
    """Whether text of whole events begins with an error's, in the form of chats, of Messages or of Responses."""
    return events.startswith(('data: {"error": ', "event: error\n", "event: response.failed\n"))
