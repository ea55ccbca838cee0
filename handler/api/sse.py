"""Server-sent events: one event a chunk, as OpenAI writes them."""

import json
from typing import Any

from pydantic import BaseModel

DONE = "data: [DONE]\n\n"


def encode(chunk: BaseModel) -> str:
    """Fields that were never set stay out; a field set to None is null."""
    return f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"


def encode_error(body: dict[str, Any]) -> str:
    """An error after the first byte, which ends the stream."""
    return f"data: {json.dumps(body)}\n\n{DONE}"


def is_error(events: str) -> bool:
    """Whether text that `encode_error` may have made was made by it."""
    return events.startswith('data: {"error": ')
