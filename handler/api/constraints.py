"""The ways in which clients ask for an answer of a certain form, and the one `Constraint` that a request means.

OpenAI's `response_format` with llama-server's two older forms of it, llama-server's `json_schema` and `grammar`,
vLLM's `guided_*` and `structured_outputs`, SGLang's `regex`. Two of them in one request contradict each other: 400.
"""

import json
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator
from pydantic.functional_validators import BeforeValidator

from handler.api.fields import LenientModel, unsupported
from handler.engine.constraint import Constraint
from handler.errors import InvalidRequestError

MAX_CHOICE_TEXTS = 1024


class Wanted(NamedTuple):
    """A constraint, and the field that the client has written it in."""

    param: str
    constraint: Constraint


def _decoded(value: object) -> object:
    """vLLM takes a schema as an object or as a text of JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


Schema = Annotated[dict[str, Any], BeforeValidator(_decoded)]
Choice = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICE_TEXTS)]


class JsonSchemaFormat(LenientModel):
    name: str | None = None
    strict: bool = False
    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(LenientModel):
    """OpenAI's; and llama-server's `schema` beside the types json_object and json_schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    object_schema: dict[str, Any] | None = Field(None, alias="schema")

    @property
    def wanted(self) -> Wanted | None:
        if self.type == "text":
            return None
        if self.type == "json_schema" and self.json_schema is not None:
            form = self.json_schema
            return Wanted("response_format.json_schema.schema", schema_constraint(form.json_schema, strict=form.strict))
        return Wanted("response_format.schema", schema_constraint(self.object_schema or {"type": "object"}))

    @model_validator(mode="after")
    def _check(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None and self.object_schema is None:
            param = "response_format.json_schema"
            raise InvalidRequestError(f"'{param}' is missing", param=param)
        return self


class StructuredOutputs(LenientModel):
    """vLLM's; of its fields at most one."""

    json_: Schema | None = Field(None, alias="json")
    json_object: bool = False
    regex: str | None = None
    choice: Choice | None = None
    grammar: str | None = None
    structural_tag: Any = None

    def wanted(self) -> list[Wanted]:
        if self.structural_tag is not None:
            raise unsupported("structured_outputs.structural_tag", "send a grammar instead.")
        return [
            *_wanted("structured_outputs.json", self.json_),
            *([Wanted("structured_outputs.json_object", ANY_OBJECT)] if self.json_object else []),
            *_wanted("structured_outputs.regex", self.regex, "regex"),
            *_wanted("structured_outputs.choice", self.choice, "choice"),
            *_wanted("structured_outputs.grammar", self.grammar, "grammar"),
        ]


class ConstrainedRequest(LenientModel):
    """The fields of a request that constrain its answer."""

    response_format: ResponseFormat = ResponseFormat(type="text")
    json_schema: Schema | None = None
    grammar: str | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: Choice | None = None
    guided_grammar: str | None = None
    regex: str | None = None
    structured_outputs: StructuredOutputs = StructuredOutputs()

    @property
    def wanted(self) -> Wanted | None:
        """What constrains the answer, if anything does. Raises InvalidRequestError for more than one thing."""
        by_format = self.response_format.wanted
        wanted = [
            *([by_format] if by_format else []),
            *_wanted("json_schema", self.json_schema),
            *_wanted("grammar", self.grammar, "grammar"),
            *_wanted("guided_json", self.guided_json),
            *_wanted("guided_regex", self.guided_regex, "regex"),
            *_wanted("guided_choice", self.guided_choice, "choice"),
            *_wanted("guided_grammar", self.guided_grammar, "grammar"),
            *_wanted("regex", self.regex, "regex"),
            *self.structured_outputs.wanted(),
        ]
        if len(wanted) > 1:
            names = " and ".join(f"'{param}'" for param, _ in wanted[:2])
            raise InvalidRequestError(f"{names} both constrain the answer: send one of them", param=wanted[1].param)
        return wanted[0] if wanted else None


def schema_constraint(schema: dict[str, Any], *, strict: bool = False) -> Constraint:
    """The order of a schema's properties is that of the answer: they stay as they came."""
    return Constraint("schema", json.dumps(schema, ensure_ascii=False, separators=(",", ":")), strict)


ANY_OBJECT = schema_constraint({"type": "object"})


def _wanted(
    param: str, value: object, kind: Literal["schema", "regex", "choice", "grammar"] = "schema"
) -> list[Wanted]:
    match value:
        case None | "":  # llama-server takes an empty grammar for none
            return []
        case str():
            return [Wanted(param, Constraint(kind, value))]
        case dict():
            return [Wanted(param, schema_constraint(value))]
        case _:
            return [Wanted(param, Constraint(kind, json.dumps(value, ensure_ascii=False)))]
