"""Random JSON schemas whose every instance is short, for tests of constrained answers.

Equal seeds make equal schemas. Lengths, items, digits and nesting are bounded, so that a sampled instance takes at most
a few hundred tokens. Keywords come as clients and their libraries write them: references, nullable and tagged unions,
formats, patterns, tuples, maps, multiples. Knows nothing of engines.
"""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

MAX_DEPTH = 3  # of objects and arrays within each other
NAMES = ("id", "name", "größe", "tags", "is open", "a.b", "$ref", 'quote"d', "unit", "note", "zip", "x")
TEXTS = ("red", "green", "dark blue", "", "déjà vu", 'a"b', "back\\slash", "line\nbreak", "🦙")
PATTERNS = ("^[A-Z]{2}[0-9]{3}$", "^(a|bc)+d{1,3}$", '^[^"\\\\]{0,6}$', "^\\d{3}-\\d{4}$", "^[a-zäöü ]{2,10}$")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4")


class SchemaMaker:
    """Makes the schema of one seed. Its root is mostly an object, as most clients' are."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._definitions: dict[str, Schema] = {}

    def schema(self) -> Schema:
        """A whole schema, with its definitions."""
        root = self._object(MAX_DEPTH) if self._random.random() < 0.7 else self._any(MAX_DEPTH)
        return {**root, "$defs": self._definitions} if self._definitions else root

    def _any(self, depth: int) -> Schema:
        leaves: list[Callable[[], Schema]] = [
            self._string, self._text_of_a_kind, self._integer, self._number, self._constant, self._choice,
            lambda: {"type": "boolean"}, lambda: {"type": "null"},
        ]  # fmt: skip
        nodes: list[Callable[[int], Schema]] = [
            self._object, self._array, self._tuple, self._map, self._union, self._tagged, self._both, self._reference,
        ]  # fmt: skip
        if depth == 0 or self._random.random() < 0.5:
            return self._random.choice(leaves)()
        return self._random.choice(nodes)(depth - 1)

    def _string(self) -> Schema:
        shortest = self._random.randint(0, 4)
        return {"type": "string", "minLength": shortest, "maxLength": shortest + self._random.randint(0, 8)}

    def _text_of_a_kind(self) -> Schema:
        if self._random.random() < 0.5:
            return {"type": "string", "pattern": self._random.choice(PATTERNS), "maxLength": 12}
        return {"type": "string", "format": self._random.choice(FORMATS)}

    def _integer(self) -> Schema:
        least = self._random.choice((-1000, -3, 0, 1, 17))
        most = least + self._random.choice((0, 1, 9, 255, 10_000))
        schema: Schema = {"type": "integer", "minimum": least, "maximum": most}
        if most - least >= 9 and self._random.random() < 0.3:
            schema["multipleOf"] = self._random.choice((2, 3, 5))
        elif most - least >= 9 and self._random.random() < 0.3:
            schema = {"type": "integer", "exclusiveMinimum": least, "exclusiveMaximum": most}
        return schema

    def _number(self) -> Schema:
        """Its digits are bounded by what it is a multiple of."""
        return {"type": "number", "minimum": 0, "maximum": 99, "multipleOf": self._random.choice((0.01, 0.5, 0.25))}

    def _constant(self) -> Schema:
        return {"const": self._random.choice((*TEXTS, 7, -2.5, True, None, [1, "two"], {"a": {"b": []}}))}

    def _choice(self) -> Schema:
        values = [*self._random.sample(TEXTS, 3), self._random.randint(-9, 9), None]
        return {"enum": self._random.sample(values, self._random.randint(1, len(values)))}

    def _object(self, depth: int) -> Schema:
        names = self._random.sample(NAMES, self._random.randint(0 if depth < MAX_DEPTH - 1 else 1, 4))
        properties = {name: self._any(depth) for name in names}
        required = [name for name in names if self._random.random() < 0.7]
        closed: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return {**closed, "required": required} if required or self._random.random() < 0.5 else closed

    def _array(self, depth: int) -> Schema:
        fewest = self._random.randint(0, 2)
        return {
            "type": "array",
            "items": self._any(depth),
            "minItems": fewest,
            "maxItems": fewest + self._random.randint(0, 2),
        }

    def _tuple(self, depth: int) -> Schema:
        items = [self._any(depth) for _ in range(self._random.randint(1, 3))]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": self._random.randint(0, len(items))}

    def _map(self, depth: int) -> Schema:
        """Names that the answer invents."""
        if self._random.random() < 0.5:
            names = {"^[a-z]{1,5}$": self._any(depth)}
            return {
                "type": "object",
                "patternProperties": names,
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 2,
            }
        return {"type": "object", "additionalProperties": self._any(depth), "maxProperties": 2}

    def _union(self, depth: int) -> Schema:
        if self._random.random() < 0.5:
            return {"anyOf": [self._any(depth), {"type": "null"}]}
        if self._random.random() < 0.5:
            return {"type": ["integer", "null"], "minimum": 0, "maximum": 50}
        return {"anyOf": [self._any(depth) for _ in range(self._random.randint(2, 3))]}

    def _tagged(self, depth: int) -> Schema:
        """What pydantic writes for a discriminated union."""
        kinds = self._random.sample(("cat", "dog", "llama"), 2)
        return {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"kind": {"const": kind}, "value": self._any(depth)},
                    "required": ["kind", "value"],
                    "additionalProperties": False,
                }
                for kind in kinds
            ]
        }

    def _both(self, depth: int) -> Schema:
        """One schema by two, each with a part of the bounds."""
        del depth
        least = self._random.randint(-5, 5)
        return {"allOf": [{"type": "integer", "minimum": least}, {"maximum": least + self._random.randint(0, 90)}]}

    def _reference(self, depth: int) -> Schema:
        name = self._random.choice(("Point", "Name", "Unit_of_a"))
        if name not in self._definitions:
            self._definitions[name] = {"type": "null"}  # what it is to a reference to itself: a schema with an end
            self._definitions[name] = self._any(depth)
        return {"$ref": f"#/$defs/{name}"}
