"""Text that comes in pieces, for machines that read it as if it were all there.

A machine is a generator: where it needs text that has not come yet, it gives None and is resumed with more. Positions
count characters from the beginning of the answer. What a machine decides depends on the text alone, never on where it
was cut: every helper waits until more text could not change its answer.
"""

import re
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from handler.chat.events import Event, Steps

SPACE = " \t\r\n"


class Found(NamedTuple):
    at: int
    literal: str


class Literals:
    """Texts that are looked for together: the leftmost counts, and of those that begin there the longest."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(sorted({text for text in texts if text}, key=len, reverse=True))
        self._pattern = re.compile("|".join(map(re.escape, self.texts)) if self.texts else r"(?!)")
        self._longest = len(self.texts[0]) if self.texts else 0

    def search(self, text: str, start: int) -> re.Match[str] | None:
        return self._pattern.search(text, start)

    def beginning(self, text: str, start: int, ignored: Collection[str]) -> int | None:
        """Where the end of the text may be the beginning of a literal that is not ignored."""
        for at in range(max(start, len(text) - self._longest + 1), len(text)):
            rest = text[at:]
            if any(
                literal.startswith(rest) and len(rest) < len(literal)
                for literal in self.texts
                if literal not in ignored
            ):
                return at
        return None


class TextReader:
    """The unread text of one answer.

    `guarded` are markers that begin with a token of the model: they count only where a mark says that the token itself
    was written, and never where the model spelled the same text. Those that are `whole` are that token and nothing
    more, so they come in one piece.
    """

    def __init__(self, guarded: Collection[str] = (), whole: Collection[str] = ()) -> None:
        self.position = 0  # of the first character that no machine has consumed
        self.is_closed = False
        self._guarded = frozenset(guarded)
        self._whole = frozenset(whole)
        self._text = ""
        self._base = 0  # position of the first character in `_text`
        self._marks: set[int] = set()

    @property
    def end(self) -> int:
        return self._base + len(self._text)

    def feed(self, text: str, marks: Iterable[int] = ()) -> None:
        """Adds text. `marks` are the offsets in it at which the text of a marker's token begins."""
        self._marks = {mark for mark in self._marks if mark >= self.position}
        self._marks.update(self.end + mark for mark in marks)
        self._text = self._text[self.position - self._base :] + text
        self._base = self.position

    def close(self) -> None:
        """No more text will come."""
        self.is_closed = True

    def text(self, start: int, stop: int | None = None) -> str:
        return self._text[start - self._base : None if stop is None else stop - self._base]

    def char(self, at: int) -> str:
        """One character, or none where the text has not come."""
        return self._text[at - self._base : at - self._base + 1]

    def stands(self, literal: str, at: int) -> bool:
        return self._text.startswith(literal, at - self._base) and self._is_real(literal, at)

    def take_until(self, literals: Literals) -> tuple[str, str, bool]:
        """Consumes text that is certainly before any literal: that text, the literal it ends at, whether all is said.

        The literal itself stays unread. Nothing more is certain until text is added, unless all is said.
        """
        start = self.position - self._base
        match = literals.search(self._text, start)
        while match and not self._is_real(match.group(), match.start() + self._base):
            match = literals.search(self._text, match.start() + 1)
        beginning = None if self.is_closed else literals.beginning(self._text, start, self._whole)
        if match and (beginning is None or beginning > match.start()):
            stop, literal = match.start(), match.group()
        else:
            stop, literal = len(self._text) if beginning is None else beginning, ""
        self.position = stop + self._base
        return self._text[start:stop], literal, bool(literal) or self.is_closed

    def _is_real(self, literal: str, at: int) -> bool:
        return literal not in self._guarded or at in self._marks


def peek(reader: TextReader, at: int) -> Steps[str]:
    """The character there; none at the end of the answer."""
    while at >= reader.end and not reader.is_closed:
        yield None
    return reader.char(at)


def skip(reader: TextReader, at: int, chars: str = SPACE) -> Steps[int]:
    """The position of the first character that is none of these."""
    while (char := (yield from peek(reader, at))) and char in chars:
        at += 1
    return at


def literal_at(reader: TextReader, at: int, literals: Iterable[str]) -> Steps[str]:
    """The longest of the literals that stands there, or none."""
    literals = sorted(literals, key=len, reverse=True)
    while not reader.is_closed:
        rest = reader.text(at)
        if not any(len(rest) < len(literal) and literal.startswith(rest) for literal in literals):
            break
        yield None
    return next((literal for literal in literals if literal and reader.stands(literal, at)), "")


def find(
    reader: TextReader, at: int, literals: Iterable[str], max_chars: int, impossible: str = ""
) -> Steps[Found | None]:
    """The first of the literals within so many characters; none if the answer or the room ends before.

    Nor where an `impossible` character comes before: prose is known as such at its first blank.
    """
    literals = sorted(literals, key=len, reverse=True)
    for start in range(at, at + max_chars + 1):
        if literal := (yield from literal_at(reader, start, literals)):
            return Found(start, literal)
        char = yield from peek(reader, start)
        if not char or char in impossible:
            return None
    return None


def read_until(reader: TextReader, literals: Literals, write: Callable[[str], Iterable[Event]]) -> Steps[str]:
    """Writes all text before the first of the literals; returns that literal, or none at the end of the answer."""
    while True:
        text, literal, is_all = reader.take_until(literals)
        if text:
            yield from write(text)
        if is_all:
            return literal
        yield None
