"""What clients may send, validated once, where it enters.

Lenient about form: a null is an absent field, unknown fields are ignored, and the other names clients have for a
sampling parameter are known. Strict about meaning: a number is not a text, nothing is out of range, and what this
worker cannot do yet is refused rather than ignored.

Every error is an InvalidRequestError with `param`, also those raised within pydantic's validators: it passes through
anything that is not a ValueError. Knows nothing of models: whether a prompt fits, or a token id exists, shows later.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

import pydantic_core
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.functional_validators import AfterValidator, PlainValidator
from pydantic_core import ErrorDetails

from handler.engine.sampling_params import SamplingParams
from handler.errors import InvalidRequestError

MAX_CHOICES = 16
MAX_LOGPROBS = 20  # OpenAI's limit
MAX_PROMPTS = 2048  # OpenAI's limit
MAX_STRINGS = 32  # stop strings and sequence breakers: each is searched for in every token
MAX_STRING_CHARS = 256
MAX_BIASES = 1024
MAX_INT32 = 2**31 - 1  # what llama.cpp's counts hold
MAX_SHOWN_CHARS = 40  # of a wrong value in an error message

ROLES = ("system", "developer", "user", "assistant", "tool")
TEMPLATE_VARIABLES = ("messages", "tools")  # which `chat_template_kwargs` may not replace

_DEFAULTS = SamplingParams()

Prompt = str | list[int]
Strings = tuple[str, ...]


def _strings(value: object, param: str) -> Strings:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise InvalidRequestError(f"'{param}' must be a text or a list of texts", param=param)
    if len(items) > MAX_STRINGS:
        raise InvalidRequestError(f"'{param}' may hold at most {MAX_STRINGS} texts (got {len(items)})", param=param)
    if not all(1 <= len(item) <= MAX_STRING_CHARS for item in items):
        message = f"'{param}' may hold only texts of 1 to {MAX_STRING_CHARS} characters"
        raise InvalidRequestError(message, param=param)
    return tuple(items)


def _logit_bias(value: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, dict):
        raise InvalidRequestError("'logit_bias' must be an object of token ids and numbers", param="logit_bias")
    if len(value) > MAX_BIASES:
        raise InvalidRequestError(f"'logit_bias' may hold at most {MAX_BIASES} tokens", param="logit_bias")
    return tuple(_bias(token, bias) for token, bias in value.items())


def _bias(token: Any, bias: Any) -> tuple[int, float]:
    if not (isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10):
        raise InvalidRequestError(f"'logit_bias' has a key that is no token id: {_show(token)}", param="logit_bias")
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
        message = f"'logit_bias' must have values from -100 to 100 (got {_show(bias)})"
        raise InvalidRequestError(message, param="logit_bias")
    return int(token), float(bias)


class _Lenient(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, body: Any) -> Any:
        return {key: value for key, value in body.items() if value is not None} if isinstance(body, dict) else body


class StreamOptions(_Lenient):
    include_usage: bool = False


class GenerationRequest(_Lenient):
    """What chats and completions have in common. Fields named as in `SamplingParams` have its types and defaults."""

    model: str | None = None
    user: str | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    max_completion_tokens: int | None = Field(None, ge=1)  # OpenAI's newer name: `max_tokens` has its value too
    max_tokens: int | None = Field(_DEFAULTS.max_tokens, ge=1)
    stop: Annotated[Strings, PlainValidator(lambda value: _strings(value, "stop"))] = _DEFAULTS.stop
    ignore_eos: bool = _DEFAULTS.ignore_eos
    seed: int | None = Field(_DEFAULTS.seed, ge=-(2**63), lt=2**63)

    temperature: float = Field(_DEFAULTS.temperature, ge=0, le=2)
    top_p: float = Field(_DEFAULTS.top_p, gt=0, le=1)
    top_k: Annotated[int, AfterValidator(lambda k: max(k, 0))] = Field(_DEFAULTS.top_k, ge=-1, le=MAX_INT32)
    min_p: float = Field(_DEFAULTS.min_p, ge=0, le=1)
    typical_p: float = Field(_DEFAULTS.typical_p, gt=0, le=1, validation_alias=AliasChoices("typical_p", "typ_p"))
    xtc_probability: float = Field(_DEFAULTS.xtc_probability, ge=0, le=1)
    xtc_threshold: float = Field(_DEFAULTS.xtc_threshold, ge=0, le=1)

    repeat_penalty: float = Field(
        _DEFAULTS.repeat_penalty,
        gt=0,
        le=1000,
        validation_alias=AliasChoices("repeat_penalty", "repetition_penalty"),
    )
    repeat_last_n: int = Field(_DEFAULTS.repeat_last_n, ge=-1, le=MAX_INT32)
    frequency_penalty: float = Field(_DEFAULTS.frequency_penalty, ge=-2, le=2)
    presence_penalty: float = Field(_DEFAULTS.presence_penalty, ge=-2, le=2)
    dry_multiplier: float = Field(_DEFAULTS.dry_multiplier, ge=0, le=1000)
    dry_base: float = Field(_DEFAULTS.dry_base, ge=0, le=1000)
    dry_allowed_length: int = Field(_DEFAULTS.dry_allowed_length, ge=0, le=MAX_INT32)
    dry_penalty_last_n: int = Field(_DEFAULTS.dry_penalty_last_n, ge=-1, le=MAX_INT32)
    dry_sequence_breakers: Annotated[
        Strings, PlainValidator(lambda value: _strings(value, "dry_sequence_breakers"))
    ] = _DEFAULTS.dry_sequence_breakers
    logit_bias: Annotated[tuple[tuple[int, float], ...], PlainValidator(_logit_bias)] = _DEFAULTS.logit_bias

    @property
    def include_usage(self) -> bool:
        return self.stream_options.include_usage

    @property
    def num_logprobs(self) -> int | None:
        """As `SamplingParams` has it; chats and completions ask in different fields."""
        raise NotImplementedError

    @property
    def json_schema(self) -> str | None:
        """As `SamplingParams` has it; completions are free."""
        return None

    @model_validator(mode="before")
    @classmethod
    def _prefer_max_completion_tokens(cls, body: Any) -> Any:
        if isinstance(body, dict) and body.get("max_completion_tokens") is not None:
            return {**body, "max_tokens": body["max_completion_tokens"]}
        return body


def _messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for i, message in enumerate(messages):
        _check_message(message, f"messages[{i}]")
    return messages


def _check_message(message: dict[str, Any], param: str) -> None:
    role = message.get("role")
    if role not in ROLES:
        got = f"got {_show(role)}" if "role" in message else "it is missing"
        raise InvalidRequestError(f"'{param}.role' must be one of {', '.join(ROLES)} ({got})", param=f"{param}.role")
    if "content" not in message and role != "assistant":
        raise InvalidRequestError(f"'{param}.content' is missing", param=f"{param}.content")
    _check_content(message.get("content"), f"{param}.content")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise InvalidRequestError(f"'{param}.tool_calls' must be a list of objects", param=f"{param}.tool_calls")


def _check_content(content: object, param: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidRequestError(f"'{param}' must be a text or a list of text parts", param=param)
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            message = f"'{param}' may hold parts of type text only: this model reads no others (got {_show(kind)})"
            raise InvalidRequestError(message, param=param)
        if not isinstance(part.get("text"), str):
            raise InvalidRequestError(f"'{param}' has a text part without text", param=param)


def _unsupported(param: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{param}' is not supported: {why}", param=param, code="unsupported_parameter")


class JsonSchemaFormat(_Lenient):
    """`strict` makes no difference: an answer always follows its schema."""

    name: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(_Lenient):
    """OpenAI's, and llama-server's `schema` beside the type json_object."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    object_schema: dict[str, Any] | None = Field(None, alias="schema")

    @property
    def wanted(self) -> dict[str, Any] | None:
        """The schema that the answer must follow; None for plain text."""
        if self.type == "json_schema":
            assert self.json_schema is not None, "checked below"
            return self.json_schema.json_schema
        return None if self.type == "text" else self.object_schema or {"type": "object"}

    @property
    def param(self) -> str:
        """Where the client has written that schema."""
        return "response_format.json_schema.schema" if self.type == "json_schema" else "response_format.schema"

    @model_validator(mode="after")
    def _check(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            param = "response_format.json_schema"
            raise InvalidRequestError(f"'{param}' is missing", param=param)
        return self


class ChatCompletionRequest(GenerationRequest):
    """POST /v1/chat/completions. Messages stay as they came, for templates read more keys than OpenAI names."""

    messages: Annotated[list[dict[str, Any]], AfterValidator(_messages)] = Field(min_length=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    tools: list[dict[str, Any]] = []
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] = []
    function_call: Any = None
    response_format: ResponseFormat = ResponseFormat(type="text")
    chat_template_kwargs: dict[str, Any] = {}

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def json_schema(self) -> str | None:
        """The order of a schema's properties is that of the answer: they stay as they came."""
        schema = self.response_format.wanted
        return None if schema is None else json.dumps(schema, ensure_ascii=False, separators=(",", ":"))

    @model_validator(mode="after")
    def _check(self) -> "ChatCompletionRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
        if self.tools and self.tool_choice != "none":
            raise _unsupported("tools", 'this worker cannot call tools yet. Send "tool_choice": "none", or no tools.')
        if self.functions and self.function_call != "none":
            raise _unsupported("functions", "this worker cannot call functions yet")
        for name in TEMPLATE_VARIABLES:
            if name in self.chat_template_kwargs:
                param = "chat_template_kwargs"
                raise InvalidRequestError(f"'{param}' cannot hold '{name}', which is a field of its own", param=param)
        return self


def _prompts(value: Any) -> list[Prompt]:
    items = [value] if isinstance(value, str) or _is_token_ids(value) else value
    if not isinstance(items, list) or not items or not (_are_texts(items) or all(map(_is_token_ids, items))):
        message = "'prompt' must be a text, a list of texts, a list of token ids or a list of such lists, and not empty"
        raise InvalidRequestError(message, param="prompt")
    if len(items) > MAX_PROMPTS:
        raise InvalidRequestError(f"'prompt' may hold at most {MAX_PROMPTS} prompts (got {len(items)})", param="prompt")
    return items


def _are_texts(items: list[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


def _is_token_ids(value: object) -> bool:
    """`type` and not `isinstance`: true is no token."""
    return (
        isinstance(value, list) and bool(value) and all(type(item) is int and 0 <= item <= MAX_INT32 for item in value)
    )


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompts: Annotated[list[Prompt], PlainValidator(_prompts)] = Field(validation_alias="prompt")  # one or more
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    best_of: int | None = Field(None, ge=1)
    suffix: str = ""

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @model_validator(mode="after")
    def _check(self) -> "CompletionRequest":
        if self.suffix:
            raise _unsupported("suffix", "this worker does not fill in the middle")
        if self.best_of not in (None, 1, self.n):
            raise _unsupported("best_of", "it may only be 1 or equal to 'n'")
        if self.echo and self.logprobs is not None:
            raise _unsupported("echo", "the prompt's tokens have no logprobs here, so leave one of the two out")
        return self


RequestT = TypeVar("RequestT", bound=GenerationRequest)


def parse(model_cls: type[RequestT], body: object) -> RequestT:
    """The request in a decoded JSON body. Raises InvalidRequestError that says in one line what is wrong first."""
    if not isinstance(body, dict):
        raise InvalidRequestError("The request body must be a JSON object")
    try:
        pydantic_core.to_json(body)
    except ValueError:
        raise InvalidRequestError("The request body holds text that is not Unicode, or nests too deep") from None
    try:
        return model_cls.model_validate(body)
    except ValidationError as error:
        raise _explain(error.errors(include_url=False)[0]) from None


def _explain(error: ErrorDetails) -> InvalidRequestError:
    param = _param(error["loc"])
    wording = _WORDING.get(error["type"], "is not valid").format(**error.get("ctx", {}))
    got = "" if error["type"] in ("missing", "too_short") else f" (got {_show(error['input'])})"
    return InvalidRequestError(f"'{param}' {wording}{got}", param=param)


def _param(loc: tuple[int | str, ...]) -> str:
    first, *rest = loc
    return str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)


def _show(value: object) -> str:
    """A wrong value as JSON has it, short enough for one line. What is in a list or an object is not shown."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."


_WORDING = {
    "missing": "is missing",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "literal_error": "must be {expected}",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_short": "must not be empty",
}
