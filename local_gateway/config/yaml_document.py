"""gateway.yaml as data, with the line of every value. Knows YAML, not what the keys mean.

ruamel.yaml reads YAML 1.2 (`no` is text) and tells lines; dates stay text, as in JSON.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarbool import ScalarBoolean

from local_gateway.errors import ConfigError

Place = tuple[str | int, ...]  # the keys and indexes that lead to a value
Substitute = Callable[[str], str]  # raises ValueError with the reason

# What ruamel.yaml says of a mistake, and what mends it. The first that fits.
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
    """The data of one file, or of the environment, and where a person finds each value."""

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
    builder = _Builder(name, substitute)
    try:
        data = builder.build(_reader().load(text), ())
    except MarkedYAMLError as error:
        raise ConfigError(_explain(error, name)) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name} line {line}: this is no YAML: there is a character that cannot be seen") from None
    except (YAMLError, ValueError):
        raise ConfigError(f"{name}: this is no YAML") from None
    except RecursionError:
        raise ConfigError(f"{name}: it is nested too deeply, or an alias is inside of its own anchor") from None
    if builder.problems:
        raise ConfigError("\n".join(text for _, text in sorted(builder.problems, key=lambda problem: problem[0])))
    return Document(data, name, builder.lines)


def _reader() -> YAML:
    """For round trips, because only then the data keeps its lines."""
    yaml = YAML(typ="rt", pure=True)
    yaml.constructor.yaml_constructors = {
        **RoundTripConstructor.yaml_constructors,
        "tag:yaml.org,2002:timestamp": lambda _constructor, node: node.value,
    }
    return yaml


def _explain(error: MarkedYAMLError, name: str) -> str:
    told = f"{error.context or ''}; {error.problem or ''}"
    is_quote = error.context_mark and "quoted scalar" in told
    mark = error.context_mark if is_quote else error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    if isinstance(error, DuplicateKeyError):
        key = re.search(r'duplicate key "([^"]*)"', told)
        return f"{name} line {line}: {_quoted(key[1]) + ': ' if key else ''}this key is there twice"
    hint = next((hint for pattern, hint in HINTS if re.search(pattern, told)), None)
    # The library quotes names and characters of the file, which may be a part of a secret.
    reason = re.sub(r"'(?!<)[^']{2,}'", "'...'", error.problem or "wrong")
    return f"{name} line {line}: this is no YAML: {hint or reason}"


class _Builder:
    """Plain data with variables substituted. Notes each place's line, and each problem with its line."""

    def __init__(self, name: str, substitute: Substitute) -> None:
        self.lines: dict[Place, int] = {}
        self.problems: list[tuple[int, str]] = []
        self._name = name
        self._substitute = substitute

    def build(self, value: object, place: Place) -> object:
        tag = getattr(value, "tag", None)
        if tag is not None and str(tag.value or "").startswith("!"):
            self._note(place, "a tag (!...) that is not known here; put text that begins with ! in quotes")
            return None
        match value:
            case CommentedMap():
                built: object = self._mapping(value, place)
            case CommentedSeq():
                built = self._sequence(value, place)
            case str():
                built = self._text(value, place)
            case bool() | ScalarBoolean():
                built = bool(value)
            case int():
                built = int(value)
            case float():
                built = float(value)
            case _:
                built = None
                if value is not None:
                    self._note(place, "a tag (!...) that is not known here")
        return built

    def _sequence(self, sequence: CommentedSeq, place: Place) -> list[object]:
        for index in range(len(sequence)):
            self.lines[(*place, index)] = sequence.lc.item(index)[0] + 1
        return [self.build(child, (*place, index)) for index, child in enumerate(sequence)]

    def _mapping(self, mapping: CommentedMap, place: Place) -> dict[str, object]:
        data = {}
        for key, child in mapping.items():
            if key is None or not isinstance(key, str | int | float) or not (name := _whole_or_empty(str(key))):
                self._note(place, "a key must be text, and not empty")
                continue
            if key in mapping.lc.data:  # else it came by `<<`: the line of what merges it
                self.lines[(*place, name)] = mapping.lc.key(key)[0] + 1
            if child is None and ":" in name and " " not in name:
                start = (*place, name.partition(":")[0])
                self.lines[start] = self.lines.get((*place, name), 1)
                self._note(start, "a space is missing after the colon")
            data[name] = self.build(child, (*place, name))
        return data

    def _text(self, text: str, place: Place) -> object:
        try:
            return _whole(self._substitute(str(text)))
        except ValueError as error:
            self._note(place, str(error))
            return None

    def _note(self, place: Place, reason: str) -> None:
        line = Document(None, lines=self.lines).line(place)
        at = f"{spell(place)}: " if place else ""
        self.problems.append((line, f"{self._name} line {line}: {at}{reason}"))


def _whole(text: str) -> str:
    """JSON, which is YAML too, writes some characters in halves. Raises ValueError where the other half is missing."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError("there is half a character in it") from None


def _whole_or_empty(text: str) -> str:
    try:
        return _whole(text)
    except ValueError:
        return ""
