"""compose.yaml as Docker Compose reads it: each service's environment, with .env.example and a first key."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
ADMIN_KEY = "lg-0123456789abcdef0123456789abcdef"
# ${NAME}, ${NAME:-default}, ${NAME-default}, ${NAME:?message}, the innermost first. With a colon, empty is unset.
_REFERENCE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<operator>:?[-?])(?P<rest>[^${}]*))?\}")


def dotenv(**more: str) -> dict[str, str]:
    """.env.example with the one line that a person must fill in, and more."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs} | {"GATEWAY_ADMIN_KEY": ADMIN_KEY} | more


def environment_of(service: str, variables: Mapping[str, str]) -> dict[str, str]:
    """What the container finds in its environment, the image's own included."""
    compose: Any = YAML(typ="safe").load(ROOT / "compose.yaml")
    given = compose["services"][service]["environment"]
    image = image_environment() if service == "gateway" else {}
    return image | {name: _interpolated(str(value), variables) for name, value in given.items()}


def image_environment() -> dict[str, str]:
    """GATEWAY_* of Dockerfile.gateway."""
    text = (ROOT / "Dockerfile.gateway").read_text()
    return dict(re.findall(r"\b(GATEWAY_\w+)=(\S+)", text))


def _interpolated(text: str, variables: Mapping[str, str]) -> str:
    while match := _REFERENCE.search(text):
        text = text[: match.start()] + _value_of(match, variables) + text[match.end() :]
    return text


def _value_of(match: re.Match[str], variables: Mapping[str, str]) -> str:
    value, operator = variables.get(match["name"]), match["operator"] or ""
    is_set = bool(value) if operator.startswith(":") else value is not None
    assert is_set or not operator.endswith("?"), match["rest"]
    return (value or "") if is_set else (match["rest"] or "")
