"""Values as Python and Gemma write them, turned into JSON as they come."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from handler.chat.events import Event, Steps
from handler.chat.reader import Literals, TextReader, literal_at, peek, read_until, skip
from handler.chat.tools import type_of

MAX_DEPTH = 64
MAX_ESCAPE_CHARS = 10  # \U0001F600
CLOSING = {"[": "]", "(": ")", "{": "}"}
WORDS = {"True": "true", "False": "false", "None": "null"} | {word: word for word in ("true", "false", "null")}

Write = Callable[[str], Iterable[Event]]

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_SIMPLE_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "'": "'", '"': '"', "/": "/"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True)
class ValueSyntax:
    """How strings are quoted. `ends` are markers at which an unquoted value ends in any case.

    With `is_exact` what is no value of the syntax ends the reading; else it becomes a string.
    """

    quotes: tuple[str, ...]
    has_escapes: bool
    ends: tuple[str, ...] = ()
    is_exact: bool = False


PYTHON = ValueSyntax(('"""', "'''", '"', "'"), has_escapes=True)


def write_value(reader: TextReader, syntax: ValueSyntax, write: Write, depth: int = 0) -> Steps[bool]:
    """Consumes one value and writes its JSON. False if the answer ends within it."""
    at = reader.position = yield from skip(reader, reader.position)
    if quote := (yield from literal_at(reader, at, syntax.quotes)):
        reader.position += len(quote)
        return (yield from _string(reader, quote, syntax, write))
    first = yield from peek(reader, at)
    if first in CLOSING and depth < MAX_DEPTH:
        reader.position += 1
        return (yield from _items(reader, first, syntax, write, depth + 1))
    return (yield from _word(reader, syntax, write))


def python_json(text: str) -> tuple[str, str] | None:
    """The JSON type and the JSON of a Python literal; None if the text is not exactly one, or is a string."""
    reader, pieces = TextReader(), list[str]()
    reader.feed(text + "\n")  # behind which a word is whole
    reader.close()

    def write(piece: str) -> Iterable[Event]:
        pieces.append(piece)
        return ()

    steps = write_value(reader, replace(PYTHON, is_exact=True), write)
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        if not stop.value or reader.position != reader.end - 1:
            return None
    value = "".join(pieces)
    kind = type_of(json.loads(value))
    return None if kind == "string" else (kind, value)


def _string(reader: TextReader, quote: str, syntax: ValueSyntax, write: Write) -> Steps[bool]:
    stops = Literals((quote, "\\") if syntax.has_escapes else (quote,))
    yield from write('"')
    while True:
        stop = yield from read_until(reader, stops, lambda text: write(json.dumps(text, ensure_ascii=False)[1:-1]))
        if not stop:
            return False
        if stop == quote:
            reader.position += len(quote)
            yield from write('"')
            return True
        text = yield from _escape(reader)
        yield from write(json.dumps(text, ensure_ascii=False)[1:-1])


def _escape(reader: TextReader) -> Steps[str]:
    """Consumes a backslash and what belongs to it."""
    start = reader.position
    kind = yield from peek(reader, start + 1)
    if kind in _HEX_DIGITS:
        stop = start + 2 + _HEX_DIGITS[kind]
        yield from peek(reader, stop - 1)
        if match := _ESCAPE.fullmatch(reader.text(start, stop)):
            reader.position = stop
            code = int("".join(filter(None, match.groups())), 16)
            return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else "\N{REPLACEMENT CHARACTER}"
    reader.position = min(start + 2, reader.end)
    if kind == "\n":
        return ""  # a line that goes on
    return _SIMPLE_ESCAPES.get(kind, "\\" + kind)


def _items(reader: TextReader, bracket: str, syntax: ValueSyntax, write: Write, depth: int) -> Steps[bool]:
    """The inside of a list, tuple or dict, up to its closing bracket."""
    is_dict, is_first = bracket == "{", True
    yield from write("{" if is_dict else "[")
    while True:
        at = reader.position = yield from skip(reader, reader.position, " \t\r\n,")
        char = yield from peek(reader, at)
        if not char:
            return False
        is_end = bool((yield from literal_at(reader, at, syntax.ends)))
        if is_end or char in CLOSING.values():
            reader.position += not is_end
            yield from write("}" if is_dict else "]")
            return True
        if not is_first:
            yield from write(", ")
        is_first = False
        if is_dict and not (yield from _key(reader, syntax, write)):
            return False
        if not (yield from write_value(reader, syntax, write, depth)):
            return False


def _key(reader: TextReader, syntax: ValueSyntax, write: Write) -> Steps[bool]:
    """A key, quoted or not, and its colon."""
    if quote := (yield from literal_at(reader, reader.position, syntax.quotes)):
        reader.position += len(quote)
        if not (yield from _string(reader, quote, syntax, write)):
            return False
    elif syntax.is_exact:
        return False
    else:
        key = yield from _until(reader, ":,}")
        if not (yield from peek(reader, reader.position)):
            return False
        yield from write(json.dumps(key.strip(), ensure_ascii=False))
    yield from write(": ")
    at = reader.position = yield from skip(reader, reader.position)
    if (yield from peek(reader, at)) == ":":
        reader.position += 1
        return True
    return not syntax.is_exact


def _word(reader: TextReader, syntax: ValueSyntax, write: Write) -> Steps[bool]:
    """Anything without quotes: true, None, a number, or what is none of these."""
    word = (yield from _until(reader, ",]})\n", syntax.ends)).strip()
    if word in WORDS:
        word = WORDS[word]
    elif not _NUMBER.fullmatch(word):
        if syntax.is_exact:
            return False
        word = json.dumps(word, ensure_ascii=False)
    yield from write(word)
    return bool((yield from peek(reader, reader.position)))


def _until(reader: TextReader, chars: str, ends: tuple[str, ...] = ()) -> Steps[str]:
    """Consumes the text before any of these characters or markers."""
    parts: list[str] = []

    def keep(text: str) -> Iterable[Event]:
        parts.append(text)
        return ()

    yield from read_until(reader, Literals((*chars, *ends)), keep)
    return "".join(parts)
