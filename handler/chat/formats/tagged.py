"""Calls as tags: one for the call, one for each argument, values between them without quotes."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from handler.chat.events import Event, Steps
from handler.chat.formats.calls import MAX_NAME_CHARS, Calls, skip_ends
from handler.chat.formats.values import Write, python_json
from handler.chat.reader import SPACE, Found, Literals, TextReader, find, literal_at, peek, read_until, skip
from handler.chat.tools import alternatives, type_of, types_of

MAX_TAG_CHARS = 2 * MAX_NAME_CHARS  # a name, and attributes beside it
CDATA, CDATA_END = "<![CDATA[", "]]>"

STRING, ARRAY, OBJECT = frozenset(("string",)), frozenset(("array",)), frozenset(("object",))

_NAME = re.compile(r"[\w.\-:/]+")
_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')


@dataclass(frozen=True)
class Tag:
    """A tag with a name in it: `<function=` N `>`. What stands behind the name in it are attributes."""

    opens: str
    closes: str


@dataclass(frozen=True)
class TaggedCalls:
    """`<function=N><parameter=K>V</parameter></function>`, and its relatives.

    `call` may open with nothing: then the marker before it is all, and the name follows; it may have no end of its own:
    then one of `name_ends` follows, which is left where it is. In `value_end`, `{key}` is the argument's name.
    `value_opens` stands between an argument's tag and its value where a family has such a tag; models leave it out at
    times. `newlines` says that a value stands on lines of its own. `explicit` names an attribute that says whether a
    value is a string. `nesting` marks each tag in values that are made of tags again.
    """

    call: Tag
    call_ends: tuple[str, ...]
    argument: Tag
    value_end: str
    value_opens: str = ""
    name_ends: tuple[str, ...] = ()
    newlines: bool = False
    explicit: str = ""
    nesting: str = ""
    ends: tuple[str, ...] = ()  # that may follow a call's own end
    begins: tuple[str, ...] = ()  # of the next call

    @property
    def markers(self) -> tuple[str, ...]:
        return (
            *(self.call.opens, self.call.closes, *self.call_ends, self.argument.opens, self.argument.closes),
            *(self.value_opens, self.value_end, *self.ends),
        )

    def read(self, calls: Calls, at: int, *, is_certain: bool) -> Steps[bool]:
        reader = calls.reader
        if reader.text(at - len(self.call.opens), at) != self.call.opens:  # the marker was one around all calls
            at = yield from skip(reader, at)
            if not (yield from literal_at(reader, at, (self.call.opens,))):
                return False
            at += len(self.call.opens)
        header = yield from self._header(reader, at)
        if header is None or not calls.has_room or not (is_certain or header.literal in calls.tools):
            return False
        reader.position = header.at
        yield calls.begin(header.literal)
        if (yield from self._arguments(calls, header.literal)):
            yield from calls.end()
            yield from skip_ends(calls, self.ends)
        return True

    def _header(self, reader: TextReader, at: int) -> Steps[Found | None]:
        """The call's name, and where what follows it begins."""
        at = yield from skip(reader, at, "\r\n")
        is_quoted = self.call.opens.endswith('"')  # then attributes may stand behind it
        ends = ('"',) if is_quoted else (self.call.closes, *self.name_ends)
        found = yield from find(reader, at, ends, MAX_NAME_CHARS, impossible=SPACE)
        name = reader.text(at, found.at) if found else ""
        if found and is_quoted:
            found = yield from find(reader, found.at, (self.call.closes,), MAX_TAG_CHARS)
        if found is None or not _NAME.fullmatch(name):
            return None
        if found.literal not in self.name_ends:
            return Found(found.at + len(found.literal), name)
        follows = yield from skip(reader, found.at)
        what = yield from literal_at(reader, follows, (self.argument.opens, *self.call_ends))
        return Found(follows, name) if what else None

    def _arguments(self, calls: Calls, name: str) -> Steps[bool]:
        """All arguments up to the call's end. False if the answer ends before it.

        What is neither an argument nor an end is passed over: nothing in a call is text for the client.
        """
        reader = calls.reader
        stops = Literals((self.argument.opens, *self.call_ends, *self.ends))
        opening = "{"
        while True:
            stop = yield from read_until(reader, stops, lambda _text: ())
            if not stop:
                return False
            reader.position += len(stop)
            if stop != self.argument.opens:
                if opening != "{":
                    yield from calls.write("}")
                return True
            found = yield from find(reader, reader.position, (self.argument.closes,), MAX_TAG_CHARS)
            if found is None:
                continue
            inside = reader.text(reader.position, found.at)
            reader.position = found.at + len(found.literal)
            key = inside.split('"')[0].strip()
            yield from calls.write(f"{opening}{json.dumps(key, ensure_ascii=False)}: ")
            opening = ", "
            if not (yield from self._value(calls, name, key, dict(_ATTRIBUTE.findall(inside)))):
                return False

    def _value(self, calls: Calls, name: str, key: str, attributes: dict[str, str]) -> Steps[bool]:
        """One value, with its end. Strings go out as they come, others when they are whole."""
        reader = calls.reader
        if self.value_opens:
            at = yield from skip(reader, reader.position)
            if (yield from literal_at(reader, at, (self.value_opens,))):
                reader.position = at + len(self.value_opens)
        if self.newlines and (yield from peek(reader, reader.position)) == "\n":
            reader.position += 1
        types = calls.tools.types(name, key)
        if self.explicit in attributes:
            types = STRING if attributes[self.explicit] in ("true", "string") else None
        if types == STRING:
            yield from calls.write('"')
            is_whole = yield from self._text(reader, key, calls.write_string)
            yield from calls.write('"' if is_whole else "")
            return is_whole
        parts: list[str] = []

        def keep(text: str) -> Iterable[Event]:
            parts.append(text)
            return ()

        is_whole = yield from self._text(reader, key, keep)
        if is_whole:
            text = "".join(parts)
            if self.nesting:
                nested = NestedValue(self.nesting, calls.tools.parameters(name))
                value = nested.read(text, calls.tools.parameter(name, key))
                yield from calls.write(json.dumps(value, ensure_ascii=False))
            else:
                yield from calls.write(raw_value(text, types))
        return is_whole

    def _text(self, reader: TextReader, key: str, write: Write) -> Steps[bool]:
        """A value's text, up to an end that what follows can follow. False if the answer ends before.

        A call's own end is one too, where a model has misspelled the value's.
        """
        value_end = self.value_end.replace("{key}", key)
        if (yield from literal_at(reader, reader.position, (CDATA,))):
            reader.position += len(CDATA)
            if not (yield from read_until(reader, Literals((CDATA_END,)), write)):
                return False
            reader.position += len(CDATA_END)
            write = _ignore
        newlines = tuple("\n" + end for end in (value_end, *self.call_ends)) if self.newlines else ()
        stops = Literals((value_end, *self.call_ends, *newlines))
        while stop := (yield from read_until(reader, stops, write)):
            end = stop.lstrip("\n") if self.newlines else stop
            behind = yield from skip(reader, reader.position + len(stop))
            follows = (
                (self.argument.opens, *self.call_ends, *self.ends) if end == value_end else self.ends + self.begins
            )
            if (yield from literal_at(reader, behind, follows)) or not (yield from peek(reader, behind)):
                reader.position += len(stop) if end == value_end else len(stop) - len(end)
                return True
            yield from write(stop)
            reader.position += len(stop)
        return False


def _ignore(_text: str) -> Iterable[Event]:
    return ()


def raw_value(text: str, types: frozenset[str] | None) -> str:
    """The JSON text of an argument that a model wrote without quotes: JSON if the schema has it so, else a string.

    Python's literals are taken where JSON's are meant: some templates show the model `True` and `{'a': 1}`.
    """
    stripped = text.strip()
    for parse in (_json, python_json):
        if (found := parse(stripped)) and _fits(found[0], types):
            return found[1]
    return json.dumps(text, ensure_ascii=False)


def _fits(kind: str, types: frozenset[str] | None) -> bool:
    """A string that may be one has been written without quotes: those in it are its own."""
    if types is None:
        return True
    return kind != "string" and (kind in types or (kind == "integer" and "number" in types))


def _json(text: str) -> tuple[str, str] | None:
    try:
        return type_of(json.loads(text, parse_constant=_refuse)), text
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


@dataclass(frozen=True)
class NestedValue:
    """Values that are made of tags again, each behind a mark: `<item>`s are a list, others an object, and text without
    tags is a leaf. `root` is what references in the schemas point into."""

    mark: str
    root: Mapping[str, Any]

    def read(self, text: str, schema: Any) -> Any:
        """What the text stands for. Of a union that member counts which has what the tags name."""
        children, at = [], 0
        opening = re.compile(re.escape(self.mark) + r"<([^/>][^>]*)>")
        while match := opening.search(text, at):
            closing = f"{self.mark}</{match[1]}>"
            end = _closing(text, match.end(), f"{self.mark}<{match[1]}>", closing)
            children.append((match[1], text[match.end() : end]))
            at = end + len(closing)
        if not children:
            return self._leaf(text, schema)
        members = alternatives(schema, self.root)
        if all(name == "item" for name, _ in children) and not any("item" in _properties(member) for member in members):
            items = next((member["items"] for member in members if "items" in member), None)
            return [self.read(inner, items) for _, inner in children]
        names = {name for name, _ in children}
        known = max(map(_properties, members), key=lambda properties: len(names & properties.keys()), default={})
        return {name: self.read(inner, known.get(name)) for name, inner in children}

    def _leaf(self, text: str, schema: Any) -> Any:
        types = types_of(schema, self.root)
        if types == STRING:
            return text
        if not text.strip() and types in (ARRAY, OBJECT):
            return [] if types == ARRAY else {}
        return json.loads(raw_value(text, types))


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _closing(text: str, at: int, opening: str, closing: str) -> int:
    """Where the tag that is open there closes, with tags of its own name in it; the text's end if it does not."""
    depth = 1
    for match in re.compile(f"{re.escape(opening)}|{re.escape(closing)}").finditer(text, at):
        depth += 1 if match.group() == opening else -1
        if not depth:
            return match.start()
    return len(text)
