"""The JSON schema of gateway.yaml, for editors."""

from typing import Any

from local_gateway.config.settings import GatewaySettings
from local_gateway.config.variables import NAME

Schema = dict[str, Any]

VARIABLE = {"type": "string", "pattern": rf"\$\{{{NAME}(:-[^${{}}]*)?\}}"}
OF_A_SCHEMA = ("description", "default")  # what says something of a setting, and nothing of its values
NOT_JSON_SCHEMA = ("title", "discriminator", "ge", "gt", "format", "writeOnly")


def schema() -> Schema:
    """Takes ${NAME} wherever text is not taken anyway."""
    whole = _open(GatewaySettings.model_json_schema())
    whole["$defs"]["Variable"] = {"description": "${NAME} or ${NAME:-default}", **VARIABLE}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "gateway.yaml", **whole}


def _open(node: Schema) -> Schema:
    """The schema of a value, and of all in it, that takes variables too."""
    node = _opened_inside({key: value for key, value in node.items() if key not in NOT_JSON_SCHEMA})
    options = node.get("anyOf", [node])
    if not any(_is_strict(option) for option in options):
        return node
    said = {key: node.pop(key) for key in OF_A_SCHEMA if key in node}
    return {**said, "anyOf": [*options, {"$ref": "#/$defs/Variable"}]}


def _opened_inside(node: Schema) -> Schema:
    for key in ("properties", "patternProperties", "$defs"):
        if key in node:
            node[key] = {name: _open(child) for name, child in node[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            node[key] = _open(node[key])
    return {"additionalProperties": False, **node} if "patternProperties" in node else node


def _is_strict(node: Schema) -> bool:
    """Whether it is a value that not every text is."""
    is_checked_text = node.get("type") == "string" and bool(node.keys() & {"enum", "pattern"})
    return is_checked_text or node.get("type") in ("number", "integer", "boolean")
