"""docs/gateway.md, its schema and gateway.example.yaml say what local_gateway/config/settings.py does."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from builder import gateway_reference as reference
from local_gateway.config import settings
from local_gateway.config.json_schema import schema
from local_gateway.config.load import OPENAI_MODELS, OVERRIDES, from_environment, load
from local_gateway.config.settings import GatewaySettings
from local_gateway.errors import ConfigError

EXAMPLE = reference.ROOT / "gateway.example.yaml"
DOCUMENT = reference.DOCUMENT.read_text()
ENVIRON = {"HOME": "/", "RUNPOD_API_KEY": "rpa_1", "RUNPOD_ENDPOINT_ID": "abc", "OPENAI_API_KEY": "sk-1"}

Json = dict[str, Any]


@cache
def example() -> GatewaySettings:
    return load(EXAMPLE, ENVIRON)


@cache
def validator() -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(schema())


def parts_of(part: BaseModel) -> Iterator[BaseModel]:
    """It, and all that are in it."""
    yield part
    for _, value in part:
        values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        for inner in values:
            if isinstance(inner, BaseModel):
                yield from parts_of(inner)


def config(*, target: Json | None = None, **sections: Json) -> Json:
    return {"models": {"m": {"targets": [target or {"type": "local"}]}}, **sections}


# What `make docs` writes


def test_document_is_current() -> None:
    assert reference.document(DOCUMENT) == DOCUMENT


def test_schema_is_current() -> None:
    assert json.loads(reference.SCHEMA.read_text()) == schema()


def test_every_part_is_in_the_document() -> None:
    """And every setting of it says what it is for."""
    parts = {value for value in vars(settings).values() if isinstance(value, type) and issubclass(value, settings.Part)}

    assert parts - {settings.Part, settings.RunpodTarget} == set(reference.SECTIONS.values())
    for part in parts - {settings.Part}:
        assert part.__doc__
        for name, field in part.model_fields.items():
            assert field.description or name == "type", f"{part.__name__}.{name}"


def test_variables_are_in_the_document() -> None:
    """Each beside its setting."""
    for variable, place in OVERRIDES.items():
        assert f"| `{variable}` | `{'.'.join(map(str, place))}` |" in DOCUMENT


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(models:.*?)```", DOCUMENT, re.DOTALL))
def test_examples_in_the_document(text: str, tmp_path: Path) -> None:
    """They can be used as they are, but for models that they go on to."""
    path = tmp_path / "gateway.yaml"
    other = "" if "\n  gpt-4o-mini:" in text else '  "gpt-4o-mini": {targets: [{type: openai}]}\n'
    path.write_text(f"{text}{other}")

    assert "llama" in load(path, ENVIRON).models


# gateway.example.yaml


def test_example_has_every_key() -> None:
    """Except what no line of it can be true for: `type` is in all targets."""
    shown: dict[str, set[str]] = {}
    for part in parts_of(example()):
        for kind in type(part).__mro__:
            shown.setdefault(kind.__name__, set()).update(part.model_fields_set)

    for part_type in reference.SECTIONS.values():
        own = set(part_type.model_fields) - (
            set(settings.TargetSettings.model_fields) if part_type is not settings.TargetSettings else set()
        )
        assert own <= shown[part_type.__name__], part_type.__name__


def test_example_shows_the_defaults() -> None:
    """Of all that is no matter of the models in it."""
    plain = from_environment({"HOME": "/"})

    for section in ("server", "timeouts", "retry", "database", "log"):
        assert getattr(example(), section) == getattr(plain, section)
    assert example().models["llama"].cold_start == settings.ColdStart(use="gpt-4o-mini")
    assert example().models["llama"].cache == settings.CacheSettings()
    assert example().models["llama"].targets[0].breaker == settings.BreakerSettings()


def test_example_names_its_schema() -> None:
    """Where editors look for it: in the first line."""
    first = EXAMPLE.read_text().partition("\n")[0]

    assert first == f"# yaml-language-server: $schema={reference.SCHEMA.relative_to(reference.ROOT)}"
    assert f"\n{first}\n" in DOCUMENT


# The schema


def test_schema_accepts_the_example() -> None:
    """As an editor reads it: with its variables in it."""
    assert [error.message for error in validator().iter_errors(YAML(typ="safe").load(EXAMPLE.read_text()))] == []


@pytest.mark.parametrize(
    "valid",
    [
        config(server={"port": "${PORT}", "insecure": "${INSECURE:-false}", "drain": "${DRAIN}"}),
        config(log={"level": "${LEVEL:-INFO}"}, timeouts={"connect": "500ms", "total": 90}),
        config(target={"type": "runpod_lb", "endpoint_id": "${ID}", "api_key": "${KEY}", "weight": "${WEIGHT}"}),
        config(target={"type": "openai", "base_url": "${URL}", "price": {"prompt": "${PRICE}", "cached": None}}),
        {"models": {name: config()["models"]["m"] for name in OPENAI_MODELS}},
    ],
)
def test_schema_accepts(valid: Json) -> None:
    """Variables wherever something else than any text is asked for."""
    assert validator().is_valid(valid)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"models": {}},
        {"models": {"m": {"targets": []}}},
        {"models": {"a*b": config()["models"]["m"]}},
        config(target={"type": "runpod"}),
        config(target={"endpoint_id": "x"}),
        config(target={"type": "runpod_queue", "api_key": "x"}),
        config(target={"type": "openai", "gguf": "x"}),
        config(target={"type": "openai", "base_url": "localhost"}),
        config(target={"type": "openai", "weight": "heavy"}),
        config(server={"prot": 1}),
        config(server={"port": 99999}),
        config(timeouts={"connect": "5x"}),
        config(log={"level": "info"}),
        config(servers={}),
    ],
)
def test_schema_refuses_what_the_gateway_refuses(wrong: Json, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(wrong))

    assert not validator().is_valid(wrong)
    with pytest.raises(ConfigError):
        load(path, ENVIRON)
