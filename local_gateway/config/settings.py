"""The shape of gateway.yaml: what can be set, with units and defaults. Immutable; nothing is read here.

`load.py` makes it from a file or from the environment. Durations are seconds, or text: 500ms, 8s, 2m, 1h.
"""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FRAMING = ("content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect")
HEADER_VALUE = r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?"
HEADER_TEXT = r"^[\x21-\x7e]*$"
MIN_ADMIN_KEY = 20  # characters
DURATION = r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*$"


def _parse_duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.match(DURATION, value)
    if not match:
        raise ValueError("must be seconds, or text such as 500ms, 8s, 2m, 1h, 7d")
    return float(match[1]) * UNITS[match[2] or "s"]


Duration = Annotated[
    float,
    BeforeValidator(_parse_duration, json_schema_input_type=float | Annotated[str, Field(pattern=DURATION)]),
    Field(ge=0),
]


def _check_url(value: str) -> str:
    try:
        is_complete = bool(urlsplit(value).hostname) and urlsplit(value).port != 0
    except ValueError:
        is_complete = False
    if value and not is_complete:
        raise ValueError("is no address: look at its host and port")
    return value


def _check_secret(value: SecretStr) -> SecretStr:
    if not re.fullmatch(HEADER_TEXT, value.get_secret_value()):
        raise ValueError("holds a space, a line break or a character that no key has; look at its beginning and end")
    return value


def _check_admin_key(value: SecretStr) -> SecretStr:
    if 0 < len(value.get_secret_value()) < MIN_ADMIN_KEY:
        raise ValueError(f"is too short to be a secret: write {MIN_ADMIN_KEY} characters or more")
    return value


def _check_header(name: str) -> str:
    if name.lower() in FRAMING:
        raise ValueError("is written by the gateway itself: it says where a request ends")
    return name


def _check_header_value(value: SecretStr) -> SecretStr:
    if not re.fullmatch(HEADER_VALUE, value.get_secret_value()):
        raise ValueError("holds a line break, a space at an end, or a character that no header has")
    return value


Url = Annotated[str, AfterValidator(_check_url)]
Secret = Annotated[SecretStr, AfterValidator(_check_secret)]
HeaderValue = Annotated[SecretStr, AfterValidator(_check_header_value)]
AdminKey = Annotated[Secret, AfterValidator(_check_admin_key)]
HeaderText = Annotated[str, Field(pattern=HEADER_TEXT)]
Origin = Annotated[str, Field(pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[^/\s]+)$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"), AfterValidator(_check_header)]
ModelName = Annotated[str, Field(min_length=1, pattern=r"^[^*]*\*?$")]
SharingScope = Literal["key", "team"]

# The mark of a field that a running gateway cannot change: a reload keeps its value until the next start.
FIXED = "fixed until the gateway is started again"
FixedDuration = Annotated[Duration, FIXED]


CHAT_ONLY = (
    "What is translated to chat completions, because it lacks that: `true` OpenAI's Responses and Anthropic's "
    "Messages, `false` neither, or a list of `responses` and `messages`."
)
TranslatedApis = bool | tuple[Literal["responses", "messages"], ...]


class Part(BaseModel):
    """A part of the configuration. An unknown key is an error, so that a typing mistake is found."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Price(Part):
    """What an answer costs, in the currency of the budgets. Per million tokens, or per second of a GPU, or both."""

    prompt: float = Field(0.0, ge=0, description="Per million prompt tokens.")
    cached: float | None = Field(None, ge=0, description="Per million cached prompt tokens. None: as `prompt`.")
    completion: float = Field(0.0, ge=0, description="Per million completion tokens.")
    gpu_second: float = Field(0.0, ge=0, description="Per second that the target worked on the request.")


class BreakerSettings(Part):
    """The circuit breaker of one model of a target: when it stops sending requests there, and for how long."""

    failures: int = Field(5, ge=1, description="Consecutive failures that open the breaker.")
    open_for: Duration = Field(10.0, gt=0, description="The first pause; each further one is twice as long.")
    max_open_for: Duration = Field(300.0, gt=0, description="The longest pause.")


class TargetSettings(Part):
    """What all types of targets have."""

    name: str = Field("", description="In logs, metrics and usage. Empty: made from type and address.")
    model: str = Field("", description="The target's own name of the model. Empty: the name the client used.")
    priority: int = Field(1, ge=1, description="Targets with a smaller number are asked first.")
    weight: float = Field(1.0, gt=0, description="Its share among targets of the same priority.")
    set_params: dict[str, Any] = Field(default_factory=dict, description="Body fields set in every request.")
    rename_params: dict[str, str] = Field(
        default_factory=dict,
        description="Body fields sent under another name: {max_tokens: max_completion_tokens}. A field that the "
        "request already has by the new name stays, and the one by the old name is left out.",
    )
    drop_params: tuple[str, ...] = Field((), description="Body fields taken out of every request.")
    headers: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict,
        description="Sent with every request to this target, its list of models and `check` too, instead of what the "
        "gateway or the client would send by that name. They are treated as secrets.",
    )
    chat_only: TranslatedApis = Field(False, description=CHAT_ONLY)
    stream_usage: bool = Field(True, description="Ask for the token counts of streams, for the accounting.")
    normalize: bool = Field(False, description="Repair what llama.cpp servers stream, for clients that break on it.")
    price: Price = Field(default_factory=Price, description="For budgets and usage. Nothing set: it costs nothing.")
    breaker: BreakerSettings = Field(default_factory=BreakerSettings, description="Its circuit breaker.")

    def translates(self, api: str) -> bool:
        """Whether requests of this API, `responses` or `messages`, are sent as chats."""
        return self.chat_only if isinstance(self.chat_only, bool) else api in self.chat_only


class OpenAITarget(TargetSettings):
    """Anything that speaks OpenAI's API."""

    type: Literal["openai"]
    base_url: Url = Field("https://api.openai.com/v1", pattern=r"^https?://\S+$", description="With its /v1.")
    api_key: Secret = Field(SecretStr(""), description="Sent as a bearer token. Empty: none is sent.")
    ca_file: str = Field(
        "", description="A file (PEM) with an authority of your own trusted for this target beside all others."
    )
    organization: HeaderText = Field("", description="OpenAI-Organization.")
    project: HeaderText = Field("", description="OpenAI-Project.")


class RunpodTarget(TargetSettings):
    """What both types of RunPod's endpoints have."""

    endpoint_id: str = Field(min_length=1, pattern=r"^[\w-]+$", description="As RunPod's console shows it.")
    api_key: Secret = Field(min_length=1, description="A key of RunPod's.")
    chat_only: TranslatedApis = Field(True, description=CHAT_ONLY)
    worker_price: float = Field(
        0.0,
        ge=0,
        description="What RunPod takes for a second of one worker. Above 0 the runs of the endpoint's workers are "
        "counted, from start to stop: `usage --by endpoint`. The key must be allowed to read the endpoint.",
    )
    rest_url: Url = Field(
        "https://api.runpod.io/v2",
        pattern=r"^https?://\S+$",
        description="RunPod's REST API, which lists workers.",
    )
    normalize: bool = Field(True, description="Repair what llama.cpp servers stream, for clients that break on it.")


class RunpodQueueTarget(RunpodTarget):
    """A queue endpoint of RunPod."""

    type: Literal["runpod_queue"]
    base_url: Url = Field("https://api.runpod.ai/v2", pattern=r"^https?://\S+$", description="RunPod's API.")
    api: Literal["jobs", "openai"] = Field(
        "jobs", description="`jobs`: /run and /stream, which can be watched and cancelled. `openai`: /openai/v1."
    )
    execution_timeout: Duration = Field(600.0, ge=5, description="RunPod stops a job that runs longer.")
    ttl: Duration = Field(3600.0, ge=10, description="RunPod forgets a job that is older.")


class RunpodLbTarget(RunpodTarget):
    """A load-balancing endpoint of RunPod."""

    type: Literal["runpod_lb"]
    base_url: Url = Field("", pattern=r"^(https?://\S+)?$", description="Empty: https://ENDPOINT_ID.api.runpod.ai/v1")


class LocalTarget(TargetSettings):
    """A worker on this machine, started and supervised by the gateway."""

    type: Literal["local"]
    gguf: str = Field("demo", min_length=1, description="The worker's MODEL: demo, a path, org/name:QUANT, a URL.")
    port: int = Field(0, ge=0, le=65535, description="0: any free one.")
    env: dict[str, str] = Field(default_factory=dict, description="Further settings of the worker.")
    listen_timeout: Duration = Field(
        120.0, gt=0, description="Within which its process must listen; loading the model comes after that."
    )
    normalize: bool = Field(True, description="Repair what llama.cpp servers stream, for clients that break on it.")


Target = Annotated[OpenAITarget | RunpodQueueTarget | RunpodLbTarget | LocalTarget, Field(discriminator="type")]


class ColdStart(Part):
    """Another model answers while a worker starts."""

    after: Duration = Field(8.0, description="How long the first content is waited for.")
    use: str = Field(min_length=1, description="The model that answers then.")
    wake: Literal["always", "cheaper"] = Field(
        "always",
        description="With `cheaper` the other model answers for as long as no worker runs and that costs less than a "
        "start, by the first target's `worker_price` and the other model's `price`.",
    )


class CacheSettings(Part):
    """Keep answers to deterministic requests: temperature 0, a seed, embeddings."""

    ttl: Duration = Field(3600.0, gt=0, description="How long an answer is kept.")
    max_bytes: int = Field(64_000_000, ge=1, description="Of all its answers together.")
    scope: SharingScope = Field("key", description="Which requests share them: those of one key, or of all keys.")


class ModelTimeouts(Part):
    """How long is waited for one model's targets. None: as in `timeouts` of the whole configuration."""

    total: Duration | None = Field(None, gt=0, description="To the first content, over all targets and tries.")
    idle: Duration | None = Field(None, gt=0, description="Between two pieces of an answer.")


class ModelSettings(Part):
    """A name that clients use; `*` at its end matches any ending."""

    targets: tuple[Target, ...] = Field(
        min_length=1, description="The places that can answer; `type` says what each one is."
    )
    fallbacks: tuple[str, ...] = Field((), description="Models that are asked when all targets failed.")
    context_fallbacks: tuple[str, ...] = Field(
        (), description="Models that are asked when a target says that the request is too long for it."
    )
    timeouts: ModelTimeouts = Field(default_factory=ModelTimeouts, description="How long is waited for its targets.")
    cold_start: ColdStart | None = Field(None, description="Another model answers while a worker starts.")
    cache: CacheSettings | None = Field(None, description="Keep answers to deterministic requests.")
    coalesce: SharingScope | None = Field(None, description="Identical requests in flight share one call.")
    description: str = Field("", description="Shown beside the model's name.")
    context_length: int | None = Field(
        None,
        ge=1,
        description="For clients that ask, and for budgets: the longest answer without a limit. Not enforced.",
    )


class ServerSettings(Part):
    """How clients reach the gateway, and how much it takes from them."""

    host: Annotated[str, FIXED] = Field("127.0.0.1", min_length=1, description="The address it listens on.")
    port: Annotated[int, FIXED] = Field(8000, ge=0, le=65535, description="0: any free one.")
    insecure: Annotated[bool, FIXED] = Field(
        False, description="Allow an address that others can reach although there are no keys."
    )
    require_keys: bool = Field(False, description="Ask for a key even while there is none. With keys it always does.")
    admin_key: AdminKey = Field(SecretStr(""), description="An administrator's key beside those of the database.")
    cors_origins: Annotated[tuple[Origin, ...], FIXED] = Field(
        (), description="Origins whose pages may call. Empty: none."
    )
    max_body_bytes: int = Field(20_000_000, ge=1, description="The largest request.")
    body_timeout: Duration = Field(30.0, gt=0, description="Within which a request's body must arrive.")
    max_requests: int = Field(2000, ge=1, description="Requests at once, of all clients.")
    drain: FixedDuration = Field(60.0, description="How long running answers may go on when the gateway is stopped.")


class TimeoutSettings(Part):
    """How long the gateway waits for targets."""

    connect: FixedDuration = Field(10.0, gt=0, description="To reach a target.")
    total: Duration = Field(600.0, gt=0, description="To the first content, over all targets and tries.")
    idle: Duration = Field(300.0, gt=0, description="Between two pieces of an answer.")
    commit: Duration = Field(5.0, description="After which a stream is opened although no target has answered.")
    probe: Duration = Field(5.0, description="After which a target that has not answered is asked how its workers are.")
    keep_alive: Duration = Field(10.0, gt=0, description="Between two comments in a stream that is silent.")


class OutboundSettings(Part):
    """How the gateway reaches targets. Proxies are in its environment."""

    ca_file: Annotated[str, FIXED] = Field(
        "",
        description="A file (PEM) with an authority of your own trusted for all targets beside the system's.",
    )


class RetrySettings(Part):
    """How often targets are asked, until the first content of an answer."""

    max_attempts: int = Field(4, ge=1, description="Calls for one request, over all targets.")
    backoff: Duration = Field(0.5, description="Before a target is asked again; doubled each time, with jitter.")
    max_wait: Duration = Field(20.0, description="The longest wait for a target that says Retry-After.")


class DatabaseSettings(Part):
    """Where keys and usage are kept."""

    url: Annotated[str, FIXED] = Field(
        "", description="sqlite:///PATH or postgresql://... Empty: a SQLite file in the data folder."
    )
    keep_usage: FixedDuration = Field(400 * 86400.0, gt=0, description="Older usage records are deleted.")


class LogSettings(Part):
    """What is logged, and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Prompts, answers and keys are never logged, at any level."
    )
    format: Annotated[Literal["auto", "json", "text"], FIXED] = Field(
        "auto", description="auto: text on a terminal, else JSON."
    )


class GatewaySettings(Part):
    """The whole of gateway.yaml, validated."""

    models: dict[ModelName, ModelSettings] = Field(min_length=1, description="By the names that clients use.")
    server: ServerSettings = Field(default_factory=ServerSettings, description="How clients reach the gateway.")
    timeouts: TimeoutSettings = Field(
        default_factory=TimeoutSettings, description="How long the gateway waits for targets."
    )
    outbound: OutboundSettings = Field(default_factory=OutboundSettings, description="How the gateway reaches targets.")
    retry: RetrySettings = Field(default_factory=RetrySettings, description="How often targets are asked.")
    database: DatabaseSettings = Field(default_factory=DatabaseSettings, description="Where keys and usage are kept.")
    log: LogSettings = Field(default_factory=LogSettings, description="What is logged, and how.")

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name, model in self.models.items():
            used: dict[tuple[str | int, ...], str] = {
                (field, index): other
                for field, names in (("fallbacks", model.fallbacks), ("context_fallbacks", model.context_fallbacks))
                for index, other in enumerate(names)
            }
            if model.cold_start:
                used["cold_start", "use"] = model.cold_start.use
            for place, other in used.items():
                if other == name or other.endswith("*") or not self.find(other):
                    context = {"place": ("models", name, *place), "model": other, "models": [*self.models]}
                    raise PydanticCustomError("unknown_model", "`{model}` is this model itself, or none here", context)
        return self

    @model_validator(mode="after")
    def _waking_has_prices(self) -> Self:
        for name, model in self.models.items():
            if model.cold_start and model.cold_start.wake == "cheaper":
                first, other = model.targets[0], self.find(model.cold_start.use)
                has_price = isinstance(first, RunpodTarget) and first.worker_price > 0
                priced = [target.price != Price() for target in self.models[str(other)].targets]
                if not (has_price and all(priced)):
                    reason = "needs a `worker_price` of the first target, and a `price` of each target of `use`"
                    raise PydanticCustomError("unpriced", reason, {"place": ("models", name, "cold_start", "wake")})
        return self

    def find(self, model: str) -> str | None:
        """The name under which a model is configured: itself, or the longest pattern that matches."""
        if model in self.models:
            return model
        patterns = [name for name in self.models if name.endswith("*") and model.startswith(name[:-1])]
        return max(patterns, key=len, default=None)
