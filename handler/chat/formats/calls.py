"""The calls of one answer while they are read: what a format's machine works with, and what it reports to."""

import json
from collections.abc import Collection, Iterator
from typing import Protocol

from handler.chat.events import Arguments, CallBegun, CallEnded, Event, Steps
from handler.chat.json_scan import JsonScan
from handler.chat.reader import SPACE, TextReader, literal_at, peek, skip
from handler.chat.tools import Tools

MAX_CALLS = 128  # of one answer: a model that repeats itself would call for ever
MAX_NAME_CHARS = 256  # OpenAI's names have 64; with ids and blanks around them no header is longer


class Calls:
    """Numbers an answer's calls and turns what a machine reads into events.

    `is_cut` says that the last call has begun and not ended.
    """

    def __init__(self, reader: TextReader, tools: Tools) -> None:
        self.reader = reader
        self.tools = tools
        self.num_begun = 0
        self.num_ended = 0
        self._has_arguments = False

    @property
    def is_cut(self) -> bool:
        return self.num_ended < self.num_begun

    @property
    def has_room(self) -> bool:
        return self.num_begun < MAX_CALLS

    def begin(self, name: str) -> CallBegun:
        self.num_begun += 1
        self._has_arguments = False
        return CallBegun(self.num_begun - 1, name)

    def take_back(self) -> None:
        """The latest call was none after all. Only before its beginning has become an event."""
        self.num_begun -= 1

    def write(self, text: str) -> Iterator[Event]:
        """A piece of the arguments' JSON."""
        if text:
            self._has_arguments = True
            yield Arguments(self.num_begun - 1, text)

    def write_string(self, text: str) -> Iterator[Event]:
        """A piece of a JSON string, between its quotes."""
        return self.write(json.dumps(text, ensure_ascii=False)[1:-1])

    def end(self) -> Iterator[Event]:
        """The call is whole. A call without arguments has an empty object."""
        if not self._has_arguments:
            yield from self.write("{}")
        self.num_ended += 1
        yield CallEnded(self.num_begun - 1)


class CallShape(Protocol):
    """One of the ways in which models write calls. Stateless; its fields are a family's markers."""

    @property
    def markers(self) -> tuple[str, ...]:
        """What must be visible in the text for this shape to be read, beside the markers that announce it."""
        ...

    def read(self, calls: Calls, at: int, *, is_certain: bool) -> Steps[bool]:
        """Reads the calls that begin at this position, behind their marker.

        False if there is none: then nothing has been consumed or written, and the marker is text. Otherwise what
        belongs to the calls is consumed. Without certainty, where no marker announced the call, only a known tool's
        name with arguments beside it is one.
        """
        ...


def skip_ends(calls: Calls, ends: Collection[str]) -> Steps[None]:
    """Consumes the markers that may follow a call, in any order and number, and the white space between them."""
    reader = calls.reader
    while True:
        at = yield from skip(reader, reader.position)
        literal = yield from literal_at(reader, at, ends)
        if not literal:
            return
        reader.position = at + len(literal)


def write_json(calls: Calls) -> Steps[bool]:
    """Passes the JSON value at the reader's position through as it is written. False if the answer ends within it."""
    reader, scan = calls.reader, JsonScan()
    while True:
        text = reader.text(reader.position)
        length = scan.feed(text)
        reader.position += length
        yield from calls.write(text[:length])
        if scan.is_done:
            return True
        if reader.is_closed:
            return scan.finish()
        yield None


def json_end(reader: TextReader, at: int, depth: int = 0) -> Steps[int | None]:
    """Where the JSON value that begins there ends; None if the answer ends before."""
    scan = JsonScan(depth)
    while True:
        at += scan.feed(reader.text(at))
        if scan.is_done:
            return at
        if reader.is_closed:
            return at if scan.finish() else None
        yield None


def write_arguments(calls: Calls) -> Steps[bool]:
    """Writes the arguments at the reader's position. False if the answer ends within them.

    Arguments that a model encoded twice, as a JSON string that holds an object, are decoded; null is none.
    """
    reader = calls.reader
    first = yield from peek(reader, reader.position)
    if first not in ('"', "n"):
        return (yield from write_json(calls))
    start = reader.position
    stop = yield from json_end(reader, start)
    if stop is None:
        yield from calls.write(reader.text(start))
        reader.position = reader.end
        return False
    text = reader.text(start, stop)
    reader.position = stop
    yield from calls.write(decoded(text))
    return True


def decoded(text: str) -> str:
    """The arguments in a JSON text: what a string holds, nothing for null, anything else as it is."""
    if text == "null":
        return ""
    if not text.startswith('"'):
        return text
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return text
    return str(value).strip(SPACE)
