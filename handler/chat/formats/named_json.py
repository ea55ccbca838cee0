"""Calls whose name stands before their arguments: a header that ends in a marker, then JSON."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from handler.chat.events import Event, Steps
from handler.chat.formats.calls import MAX_NAME_CHARS, Calls, skip_ends, write_arguments
from handler.chat.reader import SPACE, Literals, find, literal_at, peek, read_until, skip

NAME = r"(?P<name>[^\s<>(){}\[\]\"',]+?)"


@dataclass(frozen=True)
class NamedJson:
    """`header` matches all that stands between the call's marker and `header_ends`, and holds a group `name`.

    `openers` are markers that may stand before the header, `fences` before the arguments, `ends` behind them. Where the
    arguments may begin at once, `{` is one of the header's ends: it stays where it is.
    """

    header: re.Pattern[str]
    header_ends: tuple[str, ...]
    openers: tuple[str, ...] = ()
    fences: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()  # of the next call: arguments that are no JSON end there too

    @property
    def markers(self) -> tuple[str, ...]:
        return (*self.openers, *self.header_ends, *self.fences, *self.ends)

    def read(self, calls: Calls, at: int, *, is_certain: bool) -> Steps[bool]:
        reader = calls.reader
        for opener in self.openers:
            start = yield from skip(reader, at)
            if (yield from literal_at(reader, start, (opener,))):
                at = start + len(opener)
        at = yield from skip(reader, at)
        found = yield from find(reader, at, self.header_ends, MAX_NAME_CHARS, impossible=SPACE)
        match = found and self.header.fullmatch(reader.text(at, found.at))
        if not found or not match or not calls.has_room or not (is_certain or match["name"] in calls.tools):
            return False
        reader.position = found.at + (len(found.literal) if found.literal != "{" else 0)
        yield calls.begin(match["name"])
        at = yield from skip(reader, reader.position)
        if fence := (yield from literal_at(reader, at, self.fences)):
            reader.position = at + len(fence)
        elif reader.is_closed and any(fence.startswith(reader.text(at)) for fence in self.fences):
            reader.position = reader.end  # cut within the fence
            return True
        if (yield from self._arguments(calls)):
            yield from calls.end()
            yield from skip_ends(calls, self.ends)
        return True

    def _arguments(self, calls: Calls) -> Steps[bool]:
        """JSON, or whatever the model wrote up to the next marker. False if the answer ends within it."""
        reader = calls.reader
        at = yield from skip(reader, reader.position)
        first = yield from peek(reader, at)
        if first in ("{", "[", '"'):
            reader.position = at
            return (yield from write_arguments(calls))
        held = _Stripped(calls)
        literal = yield from read_until(reader, Literals((*self.ends, *self.begins)), held.write)
        return bool(literal) or (held.has_begun and not self.ends)


class _Stripped:
    """Writes text without the white space around it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._space = ""
        self.has_begun = False

    def write(self, text: str) -> Iterable[Event]:
        text = self._space + text if self.has_begun else text.lstrip()
        body = text.rstrip()
        self._space = text[len(body) :]
        if body:
            self.has_begun = True
            yield from self._calls.write(body)
