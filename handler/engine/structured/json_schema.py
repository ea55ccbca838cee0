"""JSON schemas, made ready for llguidance: what means nothing is dropped, what cannot be exact is refused.

llguidance refuses every keyword that it cannot enforce, also where the keyword constrains nothing. Schemas that
libraries write have such keywords, so by default they are let go; a strict schema is refused for those that matter.
Knows nothing of grammars and vocabularies.
"""

import json
import re
from typing import Any

from handler.errors import SchemaError

MAX_EXACT = 2**53  # llguidance counts in doubles
LENIENT = {"lenient": True, "coerce_one_of": True}  # llguidance's own options, which a schema may carry
OWN_OPTIONS = "x-guidance"
KNOWN_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)  # of strings; by the specification all others are annotations
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
UNSUPPORTED_PATTERN = re.compile(r"\(\?<?[=!]|\\[1-9]")  # look-around, and references back to groups
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # name -> schema
DATA = ("const", "enum", "default", "examples")  # values, not schemas


def prepare(json_schema: str, *, strict: bool) -> str:
    """The schema as llguidance is given it. Raises SchemaError for what no answer could follow exactly."""
    try:
        schema = _prepared(json.loads(json_schema), strict=strict)
    except RecursionError:
        raise SchemaError("This worker cannot follow the JSON schema: it nests too deep") from None
    if not strict and isinstance(schema, dict):
        schema[OWN_OPTIONS] = LENIENT
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _prepared(schema: Any, *, strict: bool) -> Any:
    """One schema and those within it."""
    if isinstance(schema, list):
        return [_prepared(item, strict=strict) for item in schema]
    if not isinstance(schema, dict):
        return schema
    prepared: dict[str, Any] = {}
    for key, value in schema.items():
        if _means_nothing(key, value) or (not strict and _is_beyond_llguidance(key, value)):
            continue
        if key in DATA:
            if key in ("const", "enum"):
                _check_exact(value)
            prepared[key] = value
        elif key in NAMED and isinstance(value, dict):
            prepared[key] = {name: _prepared(item, strict=strict) for name, item in value.items()}
        else:
            if _is_inexact_bound(key, value):
                _check_exact(value)
            prepared[key] = _prepared(value, strict=strict)
    return prepared


def _means_nothing(key: str, value: Any) -> bool:
    """Whether the keyword allows every instance; a client's options for llguidance are no part of a schema."""
    match key:
        case "x-guidance":
            return True
        case "format":
            return isinstance(value, str) and value not in KNOWN_FORMATS
        case "uniqueItems":
            return value is False
        case "propertyNames":
            return value is True or value == {} or value == {"type": "string"}
    return False


def _is_beyond_llguidance(key: str, value: Any) -> bool:
    """Whether it is refused even where llguidance is lenient."""
    is_pattern = key == "pattern" and isinstance(value, str)
    return _is_inexact_bound(key, value) or (is_pattern and UNSUPPORTED_PATTERN.search(value) is not None)


def _is_inexact_bound(key: str, value: Any) -> bool:
    return key in BOUNDS and isinstance(value, int | float) and abs(value) > MAX_EXACT


def _check_exact(value: Any) -> None:
    """Raises SchemaError for an integer, in a value that an answer must have, that a double does not hold."""
    if isinstance(value, list):
        for item in value:
            _check_exact(item)
    elif isinstance(value, dict):
        for item in value.values():
            _check_exact(item)
    elif isinstance(value, int) and abs(value) > MAX_EXACT:
        raise SchemaError(
            f"This worker cannot follow the JSON schema: {str(value)[:40]} is beyond 2^53 and would not come out "
            "exactly; ask for it as a string"
        )
