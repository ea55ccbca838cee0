"""The tools of a request, as far as a parser has to know them: names, and what type each argument has."""

from collections.abc import Mapping, Sequence
from typing import Any

JSON_TYPES = frozenset(("string", "integer", "number", "boolean", "array", "object", "null"))
_TYPE_NAMES: dict[type, str] = {
    bool: "boolean",  # before int, which it is too
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    type(None): "null",
    object: "object",
}
MAX_REFERENCES = 16  # followed for one type: a schema may refer to itself


class Tools:
    """Functions by name. Takes OpenAI's form, `{"type": "function", "function": {...}}`, and the function alone."""

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._functions: dict[str, Mapping[str, Any]] = {}
        for tool in tools:
            function = tool.get("function", tool)
            if isinstance(function, Mapping) and isinstance(function.get("name"), str):
                self._functions[function["name"]] = function

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    def __len__(self) -> int:
        return len(self._functions)

    def names(self) -> list[str]:
        return list(self._functions)

    def parameters(self, name: str) -> Mapping[str, Any]:
        """The JSON schema of a tool's arguments; an empty one for a tool that is unknown or takes none."""
        parameters = self._functions.get(name, {}).get("parameters")
        return parameters if isinstance(parameters, Mapping) else {}

    def parameter_names(self, name: str) -> list[str]:
        properties = self.parameters(name).get("properties")
        return list(properties) if isinstance(properties, Mapping) else []

    def types(self, name: str, key: str) -> frozenset[str] | None:
        """The JSON types an argument may have; None where the schema does not say."""
        return types_of(self.parameter(name, key), self.parameters(name))

    def parameter(self, name: str, key: str) -> Any:
        """The schema of one argument; None where there is none."""
        properties = self.parameters(name).get("properties")
        return properties.get(key) if isinstance(properties, Mapping) else None


def types_of(schema: Any, root: Mapping[str, Any], references: int = MAX_REFERENCES) -> frozenset[str] | None:
    """The JSON types that a schema allows; None if it does not say."""
    if not isinstance(schema, Mapping):
        return None
    if isinstance(reference := schema.get("$ref"), str):
        return types_of(_resolve(reference, root), root, references - 1) if references else None
    for key in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(key), list) and references:
            found = [types_of(choice, root, references - 1) for choice in choices]
            known = [types for types in found if types is not None]
            return frozenset().union(*known) if len(known) == len(found) else None
    if isinstance(kind := schema.get("type"), str):
        return frozenset((kind,)) & JSON_TYPES or None
    if isinstance(kind, list):
        return frozenset(item for item in kind if isinstance(item, str)) & JSON_TYPES or None
    values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema["const"]] if "const" in schema else []
    return frozenset(map(type_of, values)) or None


def alternatives(schema: Any, root: Mapping[str, Any], references: int = MAX_REFERENCES) -> list[Mapping[str, Any]]:
    """The schemas of which a value follows one, or all: itself, what it refers to, and the members of its unions."""
    if not isinstance(schema, Mapping):
        return []
    found = [schema]
    if references:
        if isinstance(reference := schema.get("$ref"), str):
            found += alternatives(_resolve(reference, root), root, references - 1)
        for key in ("anyOf", "oneOf", "allOf"):
            for choice in choices if isinstance(choices := schema.get(key), list) else ():
                found += alternatives(choice, root, references - 1)
    return found


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    value: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        value = value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, Mapping) else None
    return value


def type_of(value: object) -> str:
    """The JSON type of a parsed value."""
    return next(name for kind, name in _TYPE_NAMES.items() if isinstance(value, kind))
