"""What users and tools say stays text, even where it spells a token that controls the model.

A template puts their words between its own markers, and after rendering a marker of the template looks like one that a
user spelled. So while it renders, a character that occurs nowhere else stands inside each one that was
spelled. Behind it, the character is gone and its place is known: no word has been changed or added.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from handler.errors import ContextLengthError

MAX_LITERALS = 1 << 20
PRIVATE_USE = range(0xE000, 0xF900)  # characters without a meaning in Unicode


class Revealed(NamedTuple):
    """A rendered text, and the spans in it that spell a token and are none: half open, in their order."""

    text: str
    literals: tuple[tuple[int, int], ...]


class TokenTexts:
    """The texts of a vocabulary's control tokens: what must not be taken for a token where it was spelled."""

    def __init__(self, texts: Collection[str], max_literals: int = MAX_LITERALS) -> None:
        """`max_literals`: more of them are no prompt that fits, and would take long to mark."""
        self._max_literals = max_literals
        longest_first = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def hide(self, value: Any, *, but: Collection[str] = ()) -> "Hidden":
        """A JSON value with a mark in every token's text that stands in its strings.

        In what an assistant has said, `but` these stay as they are: templates look for them there. Raises
        ContextLengthError for more of them than a prompt can have tokens.
        """
        found = (match for text in _strings(value) for match in self._pattern.finditer(text))
        num_found = sum(1 for _ in islice(found, self._max_literals + 1))
        if num_found > self._max_literals:
            raise ContextLengthError(
                f"This model's maximum context length is {self._max_literals} tokens, but the prompt alone has more. "
                "Please shorten it.",
                param="messages",
            )
        filler = _unused(value) if num_found else ""
        return Hidden(self._mark_all(value, filler, frozenset(but)) if filler else value, filler, self._pattern)

    def _mark_all(self, value: Any, filler: str, but: frozenset[str], *, is_own: bool = False) -> Any:
        if isinstance(value, dict):
            is_own = is_own or value.get("role") == "assistant"
            return {
                self._mark(key, filler): self._mark_all(item, filler, but, is_own=is_own) for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._mark_all(item, filler, but, is_own=is_own) for item in value]
        return self._mark(value, filler, but if is_own else frozenset()) if isinstance(value, str) else value

    def _mark(self, text: str, filler: str, but: frozenset[str] = frozenset()) -> str:
        def mark(match: re.Match[str]) -> str:
            token = match.group()
            return token if token in but else token[0] + filler + self._pattern.sub(mark, token[1:])

        return self._pattern.sub(mark, text)


class Hidden:
    """A value whose tokens' texts are marked, and the way back for what a template makes of it."""

    def __init__(self, value: Any, filler: str, pattern: re.Pattern[str]) -> None:
        self.value = value
        self._filler = filler
        self._pattern = pattern

    def reveal(self, rendered: str) -> Revealed:
        """The text without the marks, and where they were. A mark that the template wrote as JSON's escape counts."""
        if not self._filler:
            return Revealed(rendered, ())
        parts = re.split(f"{self._filler}|{_escaped(self._filler)}", rendered)
        text = "".join(parts)
        literals, end = [], 0
        for part in parts[:-1]:
            end += len(part)
            match = self._pattern.match(text, end - 1) if end else None
            if match:
                literals.append(match.span())
        return Revealed(text, tuple(literals))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _unused(value: Any) -> str:
    """A character of which neither itself nor its escape stands in the value."""
    texts: Iterable[str] = list(_strings(value))
    candidates = map(chr, PRIVATE_USE)
    return next(
        char
        for char in candidates
        if not any(char in text or char.encode("unicode_escape").decode() in text for text in texts)
    )


def _escaped(char: str) -> str:
    """The character as JSON writes it in ASCII, as a regular expression."""
    return rf"\\u{ord(char):04x}"
