"""gateway.yaml as data, with the line of every value. Knows YAML, not what the keys mean.

Of YAML it takes what JSON has too, in the spelling of YAML 1.2: `no` is text, and so is 2024-08-06.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from local_gateway.errors import ConfigError

Place = tuple[str | int, ...]  # the keys and indexes that lead to a value
Substitute = Callable[[str], str]  # raises ValueError with the reason

TAG = "tag:yaml.org,2002:"


class PlainType(NamedTuple):
    pattern: str
    first_characters: str
    convert: Callable[[str], object]


PLAIN_TYPES = {
    "null": PlainType(r"~|null|Null|NULL|", "~nN", lambda _: None),
    "bool": PlainType(r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    "int": PlainType(r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789", lambda text: int(text.replace("_", ""))),
    "float": PlainType(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789", float),
    "merge": PlainType("<<", "<", str),
}

# What PyYAML calls it, and what a person has to do. The first that fits.
HINTS = (
    (r"'\\t'", "there is a tab; indent with spaces"),
    (r"scanning a quoted scalar", "a quote is not closed"),
    (r"unknown escape character|escape sequence", "a \\ in \"...\" must be written twice; in '...' once"),
    (
        r"mapping values are not allowed",
        "a colon where none can be; put the text in quotes, or look at the indentation",
    ),
    (r"could not find expected ':'", "a key without its colon, or a colon without a space after it"),
    (r"expected ',' or '[}\]]', but got '{'", "inside {...} and [...] put ${NAME} in quotes"),
    (r"expected ',' or '[}\]]'", "a comma is missing, or a bracket is not closed"),
    (r"expected <block end>", "the indentation does not fit the lines above, or something is not closed"),
    (r"expected alphabetic or numeric character", "put text that begins with * or & in quotes"),
    (r"undefined alias", "no anchor for this alias; put text that begins with * in quotes"),
    (r"'[@`%]' that cannot start", "put text that begins with @, ` or % in quotes"),
    (r"expected a single document", "only one document can be in it; take out the line ---"),
)


@dataclass(frozen=True)
class Document:
    data: object
    name: str = ""  # of the file, as the person gave it
    lines: dict[Place, int] = field(default_factory=dict)
    variables: dict[Place, str] = field(default_factory=dict)  # of the environment, which set a value

    def where(self, place: Place) -> str:
        """As a person looks for it: file, line and place, or the variable that set it."""
        if place in self.variables:
            return self.variables[place]
        if not self.name:
            return spell(place)
        return f"{self.name} line {self.line(place)}: {spell(place)}".removesuffix(": ")

    def line(self, place: Place) -> int:
        """Of the value, or of what it is missing in."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def spell(place: Place) -> str:
    """`models.llama.targets[0].endpoint_id`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}" for part in place)
    return "".join(parts).removeprefix(".")


def _quoted(key: str) -> str:
    key = key if len(key) <= 40 else f"{key[:40]}..."
    return key if re.fullmatch(r"[\w*/:-]+", key) else f'"{key}"'


def parse(text: str, name: str, substitute: Substitute) -> Document:
    """Read YAML. Raises ConfigError that names every line with a problem, without text that may be secret."""
    try:
        return _build(_Loader(text), name, substitute)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_explain(error, name)) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name} line {line}: this is no YAML: there is a character that cannot be seen") from None
    except RecursionError:
        raise ConfigError(f"{name}: it is nested too deeply, or an alias is inside of its own anchor") from None


def _build(loader: "_Loader", name: str, substitute: Substitute) -> Document:
    builder = _Builder(loader, name, substitute)
    node = loader.get_single_node()
    data = builder.build(node, ()) if node else None
    if builder.problems:
        raise ConfigError("\n".join(text for _, text in sorted(builder.problems, key=itemgetter(0))))
    return Document(data, name, builder.lines)


def _explain(error: yaml.MarkedYAMLError, name: str) -> str:
    told = f"{error.context or ''}; {error.problem or ''}"
    hint = next((hint for pattern, hint in HINTS if re.search(pattern, told)), None)
    is_quote = error.context_mark and "quoted scalar" in told
    mark = error.context_mark if is_quote else error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    # PyYAML quotes names and characters of the file, which may be a part of a secret.
    reason = re.sub(r"'(?!<)[^']{2,}'", "'...'", error.problem or "wrong")
    return f"{name} line {line}: this is no YAML: {hint or reason}"


class _Loader(yaml.SafeLoader):
    """Composes nodes; its own types for plain scalars are replaced by those above."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's)


for _name, _type in PLAIN_TYPES.items():
    _first = ["", *_type.first_characters] if _name == "null" else list(_type.first_characters)
    _Loader.add_implicit_resolver(TAG + _name, re.compile(f"^(?:{_type.pattern})$"), _first)


class _Builder:
    """Makes data of nodes, and notes lines and problems."""

    def __init__(self, loader: _Loader, name: str, substitute: Substitute) -> None:
        self.loader = loader
        self.name = name
        self.substitute = substitute
        self.lines: dict[Place, int] = {}
        self.problems: list[tuple[int, str]] = []  # with their lines
        self.checked: set[int] = set()

    def build(self, node: Node, place: Place) -> object:
        self.lines.setdefault(place, node.start_mark.line + 1)
        kind = node.tag.removeprefix(TAG)
        if isinstance(node, MappingNode) and kind == "map":
            return self.mapping(node, place)
        if isinstance(node, SequenceNode) and kind == "seq":
            return [self.build(child, (*place, index)) for index, child in enumerate(node.value)]
        if isinstance(node, ScalarNode) and kind in ("str", *PLAIN_TYPES):
            return self.scalar(node, kind, place)
        self.note(node, place, "a tag (!...) that is not known here; put text that begins with ! in quotes")
        return None

    def mapping(self, node: MappingNode, place: Place) -> dict[str, object]:
        if id(node) not in self.checked:  # an alias leads here again, when what `<<` merges is among its own keys
            self.checked.add(id(node))
            self.check_keys(node, place)
        self.loader.flatten_mapping(node)
        data = {}
        for key_node, child in node.value:
            if key := self.key(key_node, place):
                self.lines[(*place, key)] = key_node.start_mark.line + 1
                data[key] = self.build(child, (*place, key))
        return data

    def key(self, node: Node, place: Place) -> str | None:
        """Its text as it is written: JSON, where it goes, has no other keys."""
        try:
            if not isinstance(node, ScalarNode) or not node.value:
                raise ValueError("a key must be text, and not empty")
            return _whole(node.value)
        except ValueError as error:
            self.note(node, place, str(error))
            return None

    def check_keys(self, node: MappingNode, place: Place) -> None:
        seen: dict[str, int] = {}
        for key_node, child in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                continue
            if key in seen:
                self.note(key_node, (*place, key), f"this key is in line {seen[key]} already")
            elif ":" in key and not key_node.style and isinstance(child, ScalarNode) and child.value == "":
                start, _, _ = key.partition(":")
                self.note(key_node, (*place, start), "a space is missing after the colon")
            seen.setdefault(key, line)

    def scalar(self, node: ScalarNode, kind: str, place: Place) -> object:
        try:
            if kind == "str":
                return _whole(self.substitute(node.value))
            if not re.fullmatch(PLAIN_TYPES[kind].pattern, node.value):
                raise ValueError(f"this is no {kind}")
            return PLAIN_TYPES[kind].convert(node.value)
        except ValueError as error:
            self.note(node, place, str(error))
            return None

    def note(self, node: Node, place: Place, reason: str) -> None:
        line = node.start_mark.line + 1
        at = f"{spell(place)}: " if place else ""
        self.problems.append((line, f"{self.name} line {line}: {at}{reason}"))


def _whole(text: str) -> str:
    """JSON, which is YAML too, writes some characters in halves. Raises ValueError where the other half is missing."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError("there is half a character in it") from None
