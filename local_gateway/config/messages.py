"""Explains pydantic's validation errors in the terms of gateway.yaml.

Shows numbers and short words of letters that were found, and no other value: it may be secret.
"""

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from local_gateway.config.settings import GatewaySettings
from local_gateway.config.yaml_document import Document, Place

# By pydantic's name of the error. {...} are its details.
REASONS = {
    "missing": "is missing",
    "string_type": "must be text; put it in quotes",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list: [a, b]",
    "too_short": "must not be empty",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "value_error": "{error}",
}
PATTERNS = {
    "base_url": "must begin with http:// or https://, and hold no space",
    "rest_url": "must begin with http:// or https://, and hold no space",
    "endpoint_id": "must be the id alone: letters, digits, - and _",
    "organization": "must be one word of ASCII characters",
    "project": "must be one word of ASCII characters",
    "cors_origins": "must be `*`, or as http://localhost:3000, app://obsidian.md or null, without a path",
    "models": "a `*` can only be at the end of a name",
}
WORD = re.compile(r"[A-Za-z_-]{1,24}")


def explain(error: ValidationError, document: Document) -> str:
    """One line for each mistake, in the order of the file."""
    details = [one for one in error.errors(include_url=False) if not _is_consequence(one)]
    lines = {_line(one, document): document.line(_place(one)) for one in details}
    return "\n".join(sorted(lines, key=lambda line: lines[line]))


def _is_consequence(error: ErrorDetails) -> bool:
    """A list whose items are wrong is called empty as well."""
    return error["type"] == "too_short" and bool(error["input"])


def _line(error: ErrorDetails, document: Document) -> str:
    return f"{document.where(_place(error))}: {_reason(error)}"


def _place(error: ErrorDetails) -> Place:
    """Without what pydantic puts between: the type of a target, and the mark of a key."""
    place = error.get("ctx", {}).get("place") or error["loc"]
    if place[:1] == ("models",) and place[2:3] == ("targets",):
        place = (*place[:4], *place[5:])
    if error["type"].startswith("union_tag"):
        place = (*place, "type")
    return tuple(part for part in place if part != "[key]")


def _reason(error: ErrorDetails) -> str:
    special = SPECIAL.get(error["type"])
    return special(error) if special else _plain_reason(error)


def _plain_reason(error: ErrorDetails) -> str:
    kind, found = error["type"], error["input"]
    reason = REASONS[kind].format(**error.get("ctx", {})) if kind in REASONS else error["msg"]
    return f"{reason}, not {_shown(found)}" if isinstance(found, int | float) and kind != "string_type" else reason


def _no_choice(error: ErrorDetails) -> str:
    return _not_among(error["input"], re.findall("'(.*?)'", error["ctx"]["expected"]))


def _unknown_model(error: ErrorDetails) -> str:
    name, place, models = (error["ctx"][key] for key in ("model", "place", "models"))
    if name == place[1]:
        return f"`{name}` is this model itself"
    return f"there is no model `{name}` here{_suggestion(name, models)}"


def _no_target_type(error: ErrorDetails) -> str:
    return _not_among(error["ctx"]["tag"], _target_types())


def _target_type_missing(_: ErrorDetails) -> str:
    return f"is missing; it must be {_choice(_target_types())}"


def _no_match(error: ErrorDetails) -> str:
    setting = next((part for part in reversed(error["loc"]) if part in PATTERNS), None)
    return PATTERNS[str(setting)] if setting else error["msg"]


def _shown(found: object) -> str:
    """In YAML's spelling; empty if it may be secret."""
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, int | float):
        return str(found)
    return f"`{found}`" if isinstance(found, str) and WORD.fullmatch(found) else ""


def _not_among(found: object, allowed: list[str]) -> str:
    shown = _shown(found)
    return f"must be {_choice(allowed)}{f', not {shown}' if shown else ''}"


def _choice(words: list[str]) -> str:
    *others, last = [f"`{word}`" for word in words]
    return f"{', '.join(others)} or {last}" if others else last


def _suggestion(found: str, known: list[str]) -> str:
    lower = {word.lower(): word for word in known}
    near = get_close_matches(found.lower(), lower, n=1)
    return f"; did you mean `{lower[near[0]]}`?" if near else ""


# Keys


def _unknown_key(error: ErrorDetails) -> str:
    loc = error["loc"]
    key = str(loc[-1])
    known = _fields(loc[:-1])
    section = next((name for name, part in _sections() if key in part.model_fields), None) if len(loc) == 1 else None
    hint = f"; did you mean `{section}.{key}`?" if section else _suggestion(key, known)
    hint = hint or f"; there are {', '.join(known)}"
    return f"there is no such setting{hint}"


def _no_mapping(error: ErrorDetails) -> str:
    known = _fields(error["loc"])
    reason = "is empty; it must have keys of its own" if error["input"] is None else "must have keys of its own"
    return f"{reason}: {', '.join(known)}" if known else reason


def _fields(loc: Place) -> list[str]:
    """Which keys may be at this place."""
    annotation: Any = GatewaySettings
    for step in loc:
        annotation = _inside(annotation, step)
    parts = list(_parts(annotation))
    common = set.intersection(*(set(part.model_fields) for part in parts)) if parts else set()
    return [name for name in parts[0].model_fields if name in common] if parts else []


def _inside(annotation: Any, step: str | int) -> Any:
    """The type that is found behind a key, an index, or a target's type."""
    if get_origin(annotation) in (dict, tuple):
        return get_args(annotation)[1 if get_origin(annotation) is dict else 0]
    parts = list(_parts(annotation))
    if tagged := [part for part in parts if step in _tags(part)]:
        return tagged[0]
    fields = [part.model_fields[step] for part in parts if step in part.model_fields]
    return fields[0].annotation if fields else None


def _parts(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is, or may be."""
    if get_origin(annotation) in (Annotated, Union, UnionType):
        for inner in get_args(annotation):
            yield from _parts(inner)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def _tags(part: type[BaseModel]) -> tuple[Any, ...]:
    """What `type` says for this one."""
    field = part.model_fields.get("type")
    return get_args(field.annotation) if field else ()


def _target_types() -> list[str]:
    targets = _inside(_inside(_inside(_inside(GatewaySettings, "models"), ""), "targets"), 0)
    return [tag for part in _parts(targets) for tag in _tags(part)]


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, info in GatewaySettings.model_fields.items():
        for part in _parts(info.annotation):
            yield name, part


SPECIAL: dict[str, Callable[[ErrorDetails], str]] = {
    "extra_forbidden": _unknown_key,
    "literal_error": _no_choice,
    "unknown_model": _unknown_model,
    "union_tag_invalid": _no_target_type,
    "union_tag_not_found": _target_type_missing,
    "dict_type": _no_mapping,
    "model_type": _no_mapping,
    "model_attributes_type": _no_mapping,
    "string_pattern_mismatch": _no_match,
}
