"""What the gateway reads in a request, and what of it a target is sent. Everything it does not read passes through."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from local_gateway.backends.base import Call
from local_gateway.errors import InvalidRequestError
from local_gateway.intake import MODEL_PATHS
from local_gateway.routing import Choice

JSON_TYPE = "application/json"
STREAM_PATHS = ("/chat/completions", "/completions", "/responses")
# Only these streams have token counts to ask for by `stream_options`.
COUNTED_STREAMS = ("/chat/completions", "/completions")
# What the gateway decides by: who may use it, what it costs, how it is answered.
READ = tuple(
    f'"{name}"'.encode()
    for name in ("model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n")
)
ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
MAX_BEGINNING = 2000  # characters of each message that tell conversations apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One request of a client. `body` is the parsed JSON object; None if it is something else, like a form."""

    path: str
    method: str = "POST"
    query: str = ""
    raw: bytes = b""
    body: Mapping[str, Any] | None = None
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # those that targets may see
    request_id: str = ""

    @property
    def model(self) -> str:
        """Empty if none is named, which only some paths allow."""
        model = self.body.get("model") if self.body else None
        return model if isinstance(model, str) else ""

    @property
    def is_stream(self) -> bool:
        """Whether it is answered by events, as far as that can be known: they may be begun before there are any."""
        return self.path in STREAM_PATHS and bool(self.body and self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        """Whether the client itself asked for the token counts of its stream."""
        options = self.body.get("stream_options") if self.body else None
        return isinstance(options, dict) and bool(options.get("include_usage"))

    @property
    def max_tokens(self) -> int | None:
        """The longest answer it allows, if it says so."""
        body = self.body or {}
        limits = (body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
        return next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)

    def conversation(self, scope: str) -> str:
        """Equal for all turns of one conversation of one person: a hash of how it began."""
        messages = self.body.get("messages") if self.body else None
        if not isinstance(messages, list):
            return ""
        first_user = next((n for n, message in enumerate(messages) if _role(message) == "user"), len(messages))
        parts = [scope, self.model, *(repr(message)[:MAX_BEGINNING] for message in messages[: first_user + 1])]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def parse_body(raw: bytes, content_type: str, path: str) -> dict[str, Any] | None:
    """The JSON object in a body, None if the body is of another type. Raises InvalidRequestError."""
    if not (path in MODEL_PATHS or _is_json(content_type)) or not raw:
        return None
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"We could not parse the JSON body of your request: {error}.") from None
    if not isinstance(body, dict):
        raise InvalidRequestError("The body of your request is not a JSON object.")
    return body


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == JSON_TYPE


def require_model(demand: Demand) -> None:
    """Raises InvalidRequestError where a model must be named and is not."""
    if demand.path in MODEL_PATHS and not demand.model:
        raise InvalidRequestError("You must provide a model parameter.", param="model")


def call_for(demand: Demand, choice: Choice, *, scope: str = "") -> Call:
    """What this target is sent: the same bytes, unless something in them has to change for it."""
    raw, content_type = demand.raw, demand.content_type
    if demand.body is not None:
        body = _adapted(demand, choice)
        raw = demand.raw if body == demand.body and not _is_ambiguous(demand.raw) else _dump(body)
        content_type = JSON_TYPE
    return Call(
        path=demand.path,
        method=demand.method,
        query=demand.query,
        body=raw,
        content_type=content_type,
        headers=demand.headers,
        is_stream=demand.is_stream,
        request_id=demand.request_id,
        conversation=demand.conversation(scope) if choice.target.settings.type == "runpod_lb" else "",
    )


def _dump(body: dict[str, Any]) -> bytes:
    """What could be parsed may still be nested too deeply for this."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise InvalidRequestError("The body of your request is nested too deeply.") from None


def _is_ambiguous(raw: bytes) -> bool:
    """Whether a target might read another value than we did: of a field that is there twice, or spelled in escapes."""
    return any(raw.count(name) > 1 for name in READ) or ESCAPED_LETTER.search(raw) is not None


def _adapted(demand: Demand, choice: Choice) -> dict[str, Any]:
    settings = choice.target.settings
    body = dict(demand.body or {})
    if demand.model:
        body["model"] = choice.model_name
    if settings.stream_usage and demand.is_stream and demand.path in COUNTED_STREAMS:
        body["stream_options"] = _with_usage(body.get("stream_options"))
    body |= settings.set_params
    return {name: value for name, value in body.items() if name not in settings.drop_params}


def _with_usage(options: object) -> object:
    """What is no set of options stays as it is: the target says so."""
    if options is None or isinstance(options, dict):
        return {**(options or {}), "include_usage": True}
    return options
