"""What clients may send, validated once, where it enters.

Lenient about form: a null is an absent field, and the other names clients have for a parameter are known. Strict about
meaning: a number is not a text, nothing is out of range, and no field that would change the answer is ignored:
`parameters` has the list.

Every error is an InvalidRequestError with `param`. Knows nothing of models: whether a prompt fits, or a token id
exists, shows later.
"""

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AliasChoices, Field, ValidationError, ValidationInfo, model_validator
from pydantic.functional_validators import AfterValidator, BeforeValidator, PlainValidator
from pydantic_core import ErrorDetails

from handler.api.constraints import ConstrainedRequest
from handler.api.fields import (
    MAX_INT32,
    Biases,
    Integer,
    LenientModel,
    Prompt,
    Strings,
    body_of,
    parse_biases,
    parse_prompts,
    parse_strings,
    parse_token_ids,
    show,
    unsupported,
)
from handler.api.messages import Message, check_messages, continues
from handler.api.parameters import Route, check_parameters
from handler.api.tool_request import ToolRequest, parse_functions, parse_tools
from handler.engine.sampling_params import SamplingParams
from handler.errors import InvalidRequestError

MAX_CHOICES = 16
NO_LIMIT, UNTIL_FULL = -1, -2  # llama-server's words; contexts are not shifted here, so they are one
MAX_LOGPROBS = 20  # OpenAI's limit
MAX_BUDGET_MESSAGE = 1000  # characters
TEMPLATE_VARIABLES = ("messages", "tools")  # which `chat_template_kwargs` may not replace
PROMPT_FLAGS = ("add_generation_prompt", "continue_final_message")  # which may stand there too

_DEFAULTS = SamplingParams()


class StreamOptions(LenientModel):
    include_usage: bool = False


class ExtraFile(LenientModel):
    """Another file that a model sees before the one with the gap."""

    text: str
    filename: str = "tmp"


def _limit(value: int, info: ValidationInfo, least: int = 1) -> int:
    """llama-server's -1 and -2 are no limit but the context's."""
    if value in (NO_LIMIT, UNTIL_FULL):
        return NO_LIMIT
    if value < least:
        name = str(info.field_name)
        raise InvalidRequestError(f"'{name}' must be at least {least}, or -1 for no limit (got {value})", param=name)
    return value


def _limit_or_none(value: int, info: ValidationInfo) -> int:
    return _limit(value, info, 0)


TokenLimit = Annotated[Integer, AfterValidator(_limit)]
LimitOrNone = Annotated[Integer, AfterValidator(_limit_or_none)]  # 0: no token is generated


def _false_is_none(value: object) -> object:
    return None if value is False else value


class GenerationRequest(ConstrainedRequest):
    """What chats and completions have in common. Fields named as in `SamplingParams` have its types and defaults."""

    route: ClassVar[Route]

    model: str | None = None
    n: Integer = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    max_completion_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None
    n_predict: TokenLimit | None = None
    min_tokens: Integer = Field(_DEFAULTS.min_tokens, ge=0, le=MAX_INT32)
    stop: Annotated[Strings, PlainValidator(lambda value: parse_strings(value, "stop"))] = _DEFAULTS.stop
    stop_token_ids: Annotated[
        tuple[int, ...], PlainValidator(lambda value: parse_token_ids(value, "stop_token_ids"))
    ] = _DEFAULTS.stop_token_ids
    ignore_eos: bool = _DEFAULTS.ignore_eos
    seed: Integer | None = Field(_DEFAULTS.seed, ge=-(2**63), lt=2**63)  # -1: any

    temperature: float = Field(_DEFAULTS.temperature, ge=0, le=2)
    top_p: float = Field(_DEFAULTS.top_p, gt=0, le=1)
    top_k: Annotated[Integer, AfterValidator(lambda k: max(k, 0))] = Field(_DEFAULTS.top_k, ge=-1, le=MAX_INT32)
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
    repeat_last_n: Integer = Field(_DEFAULTS.repeat_last_n, ge=-1, le=MAX_INT32)
    frequency_penalty: float = Field(_DEFAULTS.frequency_penalty, ge=-2, le=2)
    presence_penalty: float = Field(_DEFAULTS.presence_penalty, ge=-2, le=2)
    dry_multiplier: float = Field(_DEFAULTS.dry_multiplier, ge=0, le=1000)
    dry_base: float = Field(_DEFAULTS.dry_base, ge=0, le=1000)
    dry_allowed_length: Integer = Field(_DEFAULTS.dry_allowed_length, ge=0, le=MAX_INT32)
    dry_penalty_last_n: Integer = Field(_DEFAULTS.dry_penalty_last_n, ge=-1, le=MAX_INT32)
    dry_sequence_breakers: Annotated[
        Strings, PlainValidator(lambda value: parse_strings(value, "dry_sequence_breakers"))
    ] = _DEFAULTS.dry_sequence_breakers
    logit_bias: Annotated[Biases, PlainValidator(parse_biases)] = _DEFAULTS.logit_bias

    @property
    def include_usage(self) -> bool:
        return self.stream_options.include_usage

    @property
    def num_logprobs(self) -> int | None:
        """As `SamplingParams` has it; chats and completions ask in different fields."""
        raise NotImplementedError

    @property
    def num_prompt_logprobs(self) -> int | None:
        """As `SamplingParams` has it; completions alone can ask."""
        return None

    @property
    def echoes_logprobs(self) -> bool:
        """Whether an answer's logprobs are those of all its tokens, from the prompt's first to the one that ends it:
        evaluations count on it. Completions alone can ask."""
        return False

    @property
    def token_limit(self) -> int | None:
        """Tokens to generate at most, as asked for; None if nothing is said, and NO_LIMIT if that is said. The newest
        name counts first."""
        limits = (self.max_completion_tokens, self.max_tokens, self.n_predict)
        return next((limit for limit in limits if limit is not None), None)

    @model_validator(mode="after")
    def _check_together(self) -> "GenerationRequest":
        limit = self.token_limit
        if limit not in (None, NO_LIMIT) and self.min_tokens > limit:
            raise InvalidRequestError(f"'min_tokens' must be at most the limit of {limit} tokens", param="min_tokens")
        _ = self.wanted  # two constraints are refused
        return self


class ChatCompletionRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    route = "chat"

    messages: Annotated[list[Message], AfterValidator(check_messages)] = Field(min_length=1)
    logprobs: bool = False
    top_logprobs: Integer | None = Field(None, ge=0, le=MAX_LOGPROBS)
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None
    chat_template_kwargs: dict[str, Any] = Field({})
    reasoning_effort: str | None = None
    reasoning_format: Literal["auto", "none", "deepseek", "deepseek-legacy"] = "auto"
    include_reasoning: bool = True
    max_reasoning_tokens: Integer | None = Field(
        None,
        ge=-1,
        le=MAX_INT32,
        validation_alias=AliasChoices("reasoning_budget_tokens", "thinking_budget_tokens", "thinking_token_budget"),
    )
    reasoning_budget_message: Annotated[str, Field(max_length=MAX_BUDGET_MESSAGE)] = ""
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def continues_final_message(self) -> bool:
        """Whether the answer goes on with the last message's text: asked for, or the last is the assistant's."""
        if self.continue_final_message is not None:
            return self.continue_final_message
        return continues(self.messages) and self.add_generation_prompt is not True

    @cached_property
    def tool_request(self) -> ToolRequest:
        """The tools, in the newer form or in the older one."""
        if self.functions:
            return parse_functions(self.functions, self.function_call)
        return parse_tools(self.tools, self.tool_choice, self.parallel_tool_calls)

    @model_validator(mode="before")
    @classmethod
    def _lift_flags(cls, body: Any) -> Any:
        """vLLM's clients send the two flags of the prompt among the template's variables, too."""
        if not isinstance(body, dict) or not isinstance(kwargs := body.get("chat_template_kwargs"), dict):
            return body
        flags = {name: kwargs[name] for name in PROMPT_FLAGS if name in kwargs}
        rest = {name: value for name, value in kwargs.items() if name not in flags}
        return {**flags, **body, "chat_template_kwargs": rest}

    @model_validator(mode="after")
    def _check(self) -> "ChatCompletionRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
        if self.tools and self.functions:
            raise InvalidRequestError("'tools' and 'functions' exclude each other: send one of them", param="functions")
        _ = self.tool_request  # wrong tools are refused
        for name in TEMPLATE_VARIABLES:
            if name in self.chat_template_kwargs:
                param = "chat_template_kwargs"
                raise InvalidRequestError(f"'{param}' cannot hold '{name}', which is a field of its own", param=param)
        self._check_flags()
        return self

    def _check_flags(self) -> None:
        param = "continue_final_message"
        if self.continue_final_message and self.add_generation_prompt:
            message = f"'{param}' and 'add_generation_prompt' exclude each other: send one of them"
            raise InvalidRequestError(message, param=param)
        if self.continue_final_message and not continues(self.messages):
            message = f"'{param}' needs a last message from the assistant, without tool calls"
            raise InvalidRequestError(message, param=param)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    route = "completions"

    prompts: Annotated[list[Prompt], PlainValidator(parse_prompts)] = Field(validation_alias="prompt")  # one or more
    max_completion_tokens: LimitOrNone | None = None
    max_tokens: LimitOrNone | None = None
    n_predict: LimitOrNone | None = None
    logprobs: Integer | None = Field(None, ge=0, le=MAX_LOGPROBS)
    prompt_logprobs: Annotated[Integer | None, BeforeValidator(_false_is_none)] = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    best_of: Integer | None = Field(None, ge=1, le=MAX_CHOICES)
    suffix: str = ""

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The most that one of the two fields asks for."""
        asked = (self.logprobs if self.echoes_logprobs else None, self.prompt_logprobs)
        return max((number for number in asked if number is not None), default=None)

    @property
    def echoes_logprobs(self) -> bool:
        return self.echo and self.logprobs is not None

    @property
    def num_candidates(self) -> int:
        """Answers to generate for each prompt, of which the best `n` are sent."""
        return self.best_of or self.n

    @model_validator(mode="after")
    def _check(self) -> "CompletionRequest":
        if self.suffix and not all(isinstance(prompt, str) for prompt in self.prompts):
            raise InvalidRequestError("'suffix' needs a 'prompt' of text, not of token ids", param="suffix")
        if self.num_candidates < self.n:
            raise InvalidRequestError(f"'best_of' must be at least 'n' (got {self.best_of})", param="best_of")
        if self.num_candidates > self.n and self.stream:
            raise InvalidRequestError("'best_of' must equal 'n' in a stream", param="best_of")
        if self.prompt_logprobs is not None and self.stream:
            raise unsupported("prompt_logprobs", "a stream has them with 'echo' and 'logprobs' alone")
        if self.suffix and self.num_prompt_logprobs is not None:
            raise unsupported("suffix", "a prompt with a gap has no logprobs")
        return self


class InfillRequest(GenerationRequest):
    """POST /infill, llama-server's: what belongs between two texts."""

    route = "infill"

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraFile] = Field([])
    prompt: str = ""

    @property
    def num_logprobs(self) -> int | None:
        return None

    @model_validator(mode="after")
    def _check(self) -> "InfillRequest":
        if self.n > 1:
            raise unsupported("n", "there is one text for a gap")
        return self


RequestT = TypeVar("RequestT", bound=GenerationRequest)
ModelT = TypeVar("ModelT", bound=LenientModel)


def parse(model_cls: type[RequestT], body: object) -> RequestT:
    """The request in a decoded JSON body. Raises InvalidRequestError that says in one line what is wrong first."""
    request = validate(model_cls, body)
    assert isinstance(body, dict), "validated"
    check_parameters(model_cls.route, body)
    return request


def validate(model_cls: type[ModelT], body: object) -> ModelT:
    """The same for any route, without regard to fields that its model does not name."""
    try:
        return model_cls.model_validate(body_of(body))
    except ValidationError as error:
        raise _explain(error.errors(include_url=False)[0]) from None


def _explain(error: ErrorDetails) -> InvalidRequestError:
    param = _param(error["loc"])
    wording = _WORDING.get(error["type"], "is not valid").format(**error.get("ctx", {}))
    got = "" if error["type"] in ("missing", "too_short") else f" (got {show(error['input'])})"
    return InvalidRequestError(f"'{param}' {wording}{got}", param=param)


def _param(loc: tuple[int | str, ...]) -> str:
    first, *rest = loc
    return str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)


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
    "too_long": "has too many items",
}
