"""Calls that look like code: `f(a='x', n=3)` in Python, `call:f{a:<|"|>x<|"|>,n:3}` in Gemma's own syntax."""

import json
import re
from dataclasses import dataclass

from handler.chat.events import Steps
from handler.chat.formats.calls import MAX_NAME_CHARS, Calls, skip_ends, write_json
from handler.chat.formats.values import PYTHON, ValueSyntax, write_value
from handler.chat.reader import SPACE, Literals, find, literal_at, peek, read_until, skip

_NAME = re.compile(r"[^\W\d][\w.\-:/]*")
_KEYWORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class PythonCalls:
    """One call or a list of them. `method` is what stands between a name and its `(`: Llama 3 writes `f.call(...)`."""

    ends: tuple[str, ...] = ()
    method: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        return self.ends

    def read(self, calls: Calls, at: int, *, is_certain: bool) -> Steps[bool]:
        reader = calls.reader
        at = yield from skip(reader, at)
        is_list = (yield from peek(reader, at)) == "["
        if not (yield from self._call(calls, at + is_list, is_certain)):
            return False
        while not calls.is_cut:
            at = yield from skip(reader, reader.position, SPACE + ",;")
            if not (yield from self._call(calls, at, is_certain=is_list and is_certain)):
                break
        if not calls.is_cut:
            at = yield from skip(reader, reader.position, SPACE + ",")
            if is_list and (yield from peek(reader, at)) == "]":
                reader.position = at + 1
            yield from skip_ends(calls, self.ends)
        return True

    def _call(self, calls: Calls, at: int, is_certain: bool) -> Steps[bool]:
        reader = calls.reader
        at = yield from skip(reader, at)
        found = yield from find(reader, at, ("(",), MAX_NAME_CHARS, impossible=SPACE + "[]{}\"',")
        name = reader.text(at, found.at) if found else ""
        if not found or not name.endswith(self.method) or not calls.has_room:
            return False
        name = name.removesuffix(self.method)
        if not _NAME.fullmatch(name) or not (is_certain or name in calls.tools):
            return False
        reader.position = found.at + 1
        yield calls.begin(name)
        if (yield from self._arguments(calls, name)):
            yield from calls.end()
        return True

    def _arguments(self, calls: Calls, name: str) -> Steps[bool]:
        """What stands between the parentheses. False if the answer ends within it."""
        reader = calls.reader
        positional = iter(calls.tools.parameter_names(name))
        opening = "{"
        while True:
            at = reader.position = yield from skip(reader, reader.position, SPACE + ",]}")  # no value begins so
            char = yield from peek(reader, at)
            if not char:
                return False
            if char == ")":
                reader.position += 1
                if opening != "{":
                    yield from calls.write("}")
                return True
            key = (yield from self._keyword(calls)) or next(positional, "") or f"argument_{reader.position - at}"
            yield from calls.write(f"{opening}{json.dumps(key, ensure_ascii=False)}: ")
            if not (yield from write_value(reader, PYTHON, calls.write)):
                return False
            opening = ", "

    def _keyword(self, calls: Calls) -> Steps[str]:
        """Consumes `name=`; none where a value stands."""
        reader, start = calls.reader, calls.reader.position
        end = start
        while (char := (yield from peek(reader, end))) and (char.isalnum() or char == "_"):
            end += 1
        equals = yield from skip(reader, end, " ")
        keyword = reader.text(start, end)
        if not _KEYWORD.fullmatch(keyword) or (yield from peek(reader, equals)) != "=":
            return ""
        reader.position = equals + 1
        return keyword


@dataclass(frozen=True)
class CodeCall:
    """Code as the whole call, for an interpreter if the request has one: `<|python_tag|>print(1)`."""

    interpreters: tuple[str, ...] = ("python", "ipython", "code_interpreter")
    ends: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        return self.ends

    def read(self, calls: Calls, at: int, *, is_certain: bool) -> Steps[bool]:
        reader = calls.reader
        name = next((name for name in self.interpreters if name in calls.tools), "")
        if not name or not calls.has_room or not (yield from peek(reader, at)):
            return False
        reader.position = at
        yield calls.begin(name)
        key = next(iter(calls.tools.parameter_names(name)), "code")
        yield from calls.write(f'{{{json.dumps(key, ensure_ascii=False)}: "')
        yield from read_until(reader, Literals(self.ends), calls.write_string)
        yield from calls.write('"}')
        yield from calls.end()
        yield from skip_ends(calls, self.ends)
        return True


@dataclass(frozen=True)
class BracedCalls:
    """`call:N{...}` with values in the family's own syntax; JSON in the braces is taken too."""

    syntax: ValueSyntax
    prefix: str = "call:"
    ends: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        return (*self.syntax.quotes, *self.ends)

    def read(self, calls: Calls, at: int, *, is_certain: bool) -> Steps[bool]:
        reader = calls.reader
        at = yield from skip(reader, at)
        if not (yield from literal_at(reader, at, (self.prefix,))):
            return False
        at += len(self.prefix)
        found = yield from find(reader, at, ("{", *self.ends), MAX_NAME_CHARS, impossible=SPACE)
        name = reader.text(at, found.at).strip() if found else ""
        if not found or not calls.has_room or not _NAME.fullmatch(name) or not (is_certain or name in calls.tools):
            return False
        reader.position = found.at
        yield calls.begin(name)
        if found.literal != "{" or (yield from self._arguments(calls)):
            yield from calls.end()
            yield from skip_ends(calls, self.ends)
        return True

    def _arguments(self, calls: Calls) -> Steps[bool]:
        reader = calls.reader
        at = yield from skip(reader, reader.position + 1)
        if (yield from peek(reader, at)) == '"':
            return (yield from write_json(calls))
        return (yield from write_value(reader, self.syntax, calls.write))
