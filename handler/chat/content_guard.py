"""Text of users stays text: special tokens in messages are marked before the template adds its own.

A message may quote "<|im_end|>"; read as a control token it would end the user's turn, and what follows could pose as
the system's. So the first character of such a text is followed by a guard, a random text that the tokenizer removes
again after it has looked for special tokens. Nothing that the model sees is inserted or changed.
"""

import re
import secrets
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from handler.chat.messages import Message
from handler.errors import ContextLengthError

NOT_TEXT = ("role", "type", "id", "tool_call_id")


class _Marking:
    """One request's texts on their way through; `max_marks` bounds the work."""

    def __init__(self, pattern: re.Pattern[str], guard: str, max_marks: int) -> None:
        self._pattern = pattern
        self._guard = guard
        self._max_marks = self._num_left = max_marks

    def apply(self, key: str, value: Any) -> Any:
        if key in NOT_TEXT:
            return value
        if isinstance(value, str):
            return self._mark(value)
        if isinstance(value, list):
            return [self.apply("", item) for item in value]
        if isinstance(value, dict):
            return {name: self.apply(name, item) for name, item in value.items()}
        return value

    def _mark(self, text: str) -> str:
        marked, count = self._pattern.subn(lambda found: found[0][0] + self._guard + found[0][1:], text, self._num_left)
        self._num_left -= count
        if self._num_left <= 0:
            raise ContextLengthError(
                f"This model's maximum context length is {self._max_marks} tokens, but the prompt alone has more. "
                "Please shorten it.",
                param="messages",
            )
        return marked


class ContentGuard:
    """For one vocabulary; any thread. `special_texts` gives the texts to look for, once, when the first chat comes."""

    def __init__(self, special_texts: Callable[[], Iterable[str]]) -> None:
        self.guard = secrets.token_hex(8)  # unknown to clients, and letters that no template changes
        self._special_texts = special_texts

    def protect(self, messages: list[Message], max_tokens: int) -> list[Message]:
        """The messages with guards in all their texts. The originals stay as they are.

        Raises ContextLengthError for more special tokens than a prompt may have of any.
        """
        if self._pattern is None:
            return messages
        marking = _Marking(self._pattern, self.guard, max_tokens)
        return [{key: marking.apply(key, value) for key, value in message.items()} for message in messages]

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        """The longest first, as llama.cpp looks for them."""
        texts = sorted(set(self._special_texts()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts))) if texts else None
