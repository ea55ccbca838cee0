"""Calls as JSON objects that hold their name, alone, in a list, or in a row: `{"name": N, "arguments": A}`."""

import json
from dataclasses import dataclass
from typing import NamedTuple

from handler.chat.events import Steps
from handler.chat.formats.calls import MAX_NAME_CHARS, Calls, decoded, json_end, skip_ends, write_arguments
from handler.chat.reader import SPACE, TextReader, literal_at, peek, skip

ARGUMENT_KEYS = ("arguments", "parameters")
WRAPPERS = ("function", "tool_call")  # objects within the object: OpenAI's own form, and the one for untrained models
LIST_KEY = "tool_calls"
BETWEEN = SPACE + ",;"  # objects of a list, and of models that write several without one


@dataclass(frozen=True)
class JsonCalls:
    """`name_keys` hold the name. With `named_by_key` the name is the only key: `{"N": A}`."""

    name_keys: tuple[str, ...] = ("name",)
    named_by_key: bool = False
    ends: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        return self.ends

    def read(self, calls: Calls, at: int, *, is_certain: bool) -> Steps[bool]:
        reader = calls.reader
        at = yield from skip(reader, at)
        listed = yield from _list_in_object(reader, at)
        if (yield from peek(reader, at)) == "[":
            at = yield from skip(reader, at + 1)
        at = at if listed is None else listed
        if not (yield from _Object(self, calls, at, is_certain).read()):
            return False
        while not calls.is_cut:
            at = yield from skip(reader, reader.position, BETWEEN)
            if not (yield from _Object(self, calls, at, is_certain).read()):
                break
        if not calls.is_cut:
            at = yield from skip(reader, reader.position, BETWEEN)
            if (yield from peek(reader, at)) == "]":
                at = reader.position = at + 1
            if listed is not None:
                end = yield from json_end(reader, at, depth=1)
                reader.position = reader.end if end is None else end
            yield from skip_ends(calls, self.ends)
        return True


class _Object:
    """One call's object while it is read. Before the call has begun nothing is consumed."""

    def __init__(self, shape: JsonCalls, calls: Calls, at: int, is_certain: bool) -> None:
        self._shape = shape
        self._calls = calls
        self._reader = calls.reader
        self._at = at
        self._is_certain = is_certain
        self._depth = 0  # of the objects around the position: this one, and wrappers in it
        self._name = ""
        self._held = ""  # arguments that came before the name
        self._has_begun = False

    def read(self) -> Steps[bool]:
        """Whether there is a call; it is cut if the answer ends within it."""
        if not self._calls.has_room or (yield from peek(self._reader, self._at)) != "{":
            return False
        self._step(1, depth=1)
        while self._depth:
            self._at = yield from skip(self._reader, self._at, SPACE + ",")
            if (yield from peek(self._reader, self._at)) == "}":
                self._step(1, depth=-1)
            elif not (yield from self._field()):
                break
        if self._has_begun:
            yield from self._end()
        return self._has_begun

    def _field(self) -> Steps[bool]:
        """A key and its value. False where there is none, or the answer ends within it."""
        key = yield from _key(self._reader, self._at)
        if key is None:
            return False
        start, self._at = self._at, (yield from skip(self._reader, key.end))
        first = yield from peek(self._reader, self._at)
        if self._shape.named_by_key:
            return first == "{" and not self._name and (yield from self._named(key.text))
        if key.text in self._shape.name_keys and first == '"' and not self._name:
            return (yield from self._read_name())
        if key.text in WRAPPERS and first == "{":
            self._step(1, depth=1)
            return True
        if key.text in ARGUMENT_KEYS and self._name:
            return (yield from self._write_arguments())
        return (yield from self._pass_over(key.text, start))

    def _pass_over(self, key: str, start: int) -> Steps[bool]:
        """A value that says nothing, or arguments that come before the name."""
        end = yield from json_end(self._reader, self._at)
        if end is None:
            self._at = start  # a begun call is cut here; what has not begun is text
            return False
        if key in ARGUMENT_KEYS:
            self._held = self._reader.text(self._at, end)
        self._step(end - self._at)
        return True

    def _named(self, name: str) -> Steps[bool]:
        self._name = name
        if not self._is_certain and name not in self._calls.tools:
            return False
        return (yield from self._write_arguments())

    def _read_name(self) -> Steps[bool]:
        value = yield from _string(self._reader, self._at)
        if value is None or not value.text or not (self._is_certain or value.text in self._calls.tools):
            return False
        self._name = value.text
        if self._is_certain or self._held:
            yield from self._begin()
            yield from self._calls.write(decoded(self._held))
        self._step(value.end - self._at)
        return True

    def _write_arguments(self) -> Steps[bool]:
        if not self._has_begun:
            yield from self._begin()
        self._step(0)
        is_whole = yield from write_arguments(self._calls)
        self._at = self._reader.position
        return is_whole

    def _begin(self) -> Steps[None]:
        self._has_begun = True
        yield self._calls.begin(self._name)

    def _step(self, length: int, depth: int = 0) -> None:
        self._at += length
        self._depth += depth
        if self._has_begun:
            self._reader.position = self._at

    def _end(self) -> Steps[None]:
        """What is no field of a call that has begun is passed over, up to the object's end."""
        end = (yield from json_end(self._reader, self._at, self._depth)) if self._depth else self._at
        self._reader.position = self._reader.end if end is None else end
        if end is not None:
            yield from self._calls.end()


def _list_in_object(reader: TextReader, at: int) -> Steps[int | None]:
    """Where the first call begins in an object that holds a list of them, `{"tool_calls": [`; None where none stands
    there."""
    for literal in ("{", f'"{LIST_KEY}"', ":", "["):
        if not (yield from literal_at(reader, at, (literal,))):
            return None
        at = yield from skip(reader, at + len(literal))
    return at


class _Text(NamedTuple):
    text: str
    end: int


def _key(reader: TextReader, at: int) -> Steps[_Text | None]:
    """A key with its colon. Some models leave out the quotes."""
    if (yield from peek(reader, at)) == '"':
        key = yield from _string(reader, at)
        if key is None:
            return None
    else:
        end = at
        while (char := (yield from peek(reader, end))) and (char.isalnum() or char == "_"):
            end += 1
            if end - at > MAX_NAME_CHARS:
                return None
        key = _Text(reader.text(at, end), end)
    end = yield from skip(reader, key.end)
    return _Text(key.text, end + 1) if key.text and (yield from peek(reader, end)) == ":" else None


def _string(reader: TextReader, at: int) -> Steps[_Text | None]:
    """A short JSON string; None if it is long, is none, or the answer ends within it."""
    end = at + 1
    while (char := (yield from peek(reader, end))) != '"':
        end += 2 if char == "\\" else 1
        if not char or end - at > MAX_NAME_CHARS:
            return None
    try:
        return _Text(json.loads(reader.text(at, end + 1), strict=False), end + 1)
    except ValueError:
        return None
