"""What the gateway reads in a client's request. Everything it does not read passes through. Knows no targets."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from local_gateway.accounts.pricing import NUM_ANSWERS, TOKEN_LIMITS
from local_gateway.edge.api_paths import MODEL_PATHS, ApiPath
from local_gateway.edge.multipart import Form, is_form, parse_form
from local_gateway.errors import InvalidRequestError
from local_gateway.wire.call_ledger import CallLedger

JSON_TYPE = "application/json"
STREAM_PATHS = ("/chat/completions", "/completions", "/responses", "/messages")
MAX_VALUES = 1_000_000  # of a body: parsing them holds up every other request
MAX_FIELDS = 200  # at the top of a body that is passed on byte for byte
MAX_DEPTH = 8  # to which a body is searched for models
SCHEMAS = ("parameters", "input_schema", "json_schema", "schema")  # of tools: they name no model
# Fields that hold texts, schemas and notes, and name no model.
OPAQUE = frozenset(
    {"messages", "input", "prompt", "metadata", "response_format", "text", "json_schema", "guided_json", "functions"}
    | {"structured_outputs", "chat_template_kwargs", "logit_bias", "documents", "query", "system", "prediction"}
)
# Fields that decide permission, cost or the form of the answer. In another case of letters they are refused.
READ = frozenset(
    {"model", "models", "messages", "prompt", "input", "stream", "stream_options", "user", "metadata", "tools"}
    | {"temperature", "seed", "store", "background", "conversation", "options", "safety_identifier"}
    | {*TOKEN_LIMITS, *NUM_ANSWERS}
)
ESCAPED_NAME = re.compile(rb"\\u00[4-7]")  # a letter or an underscore, for which no writer needs it
MAX_USER = 200  # characters
MAX_BEGINNING = 2000  # characters of each message that tell conversations apart


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRequest:
    """One request of a client, as it is to be read by all: `raw` is read as `body` by every parser.

    `body` is the parsed JSON object; None if the body is something else, or if its path belongs to the account.
    """

    path: str
    method: str = "POST"
    query: str = ""
    raw: bytes = b""
    body: Mapping[str, Any] | None = None
    form: Form | None = None  # where the body is one
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # those that targets may see
    request_id: str = ""
    calls: CallLedger = field(default_factory=CallLedger, compare=False)  # what was sent to targets for it

    @property
    def model(self) -> str:
        """Empty if none is named, which only some paths allow."""
        if self.form is not None:
            return self.form.text("model")
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
    def end_user(self) -> str:
        """Whom the client asks for, as it says; empty if it does not."""
        body = self.body or {}
        metadata = body.get("metadata")
        named = (body.get("user"), metadata.get("user_id") if isinstance(metadata, dict) else None)
        return next((user[:MAX_USER] for user in named if isinstance(user, str) and user), "")

    def conversation(self, scope: str) -> str:
        """Equal for all turns of one conversation of one person: a hash of how it began."""
        body = self.body or {}
        messages = body.get("input") if self.path.startswith("/responses") else body.get("messages")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not isinstance(messages, list):
            return ""
        first_user = next((n for n, message in enumerate(messages) if _role(message) == "user"), len(messages))
        parts = [scope, self.model, *map(_beginning, messages[: first_user + 1])]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _beginning(message: object) -> str:
    """Of what it says. Marks for caches beside a text come and go between turns."""
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, list):
        texts = (part.get("text") if isinstance(part, dict) else None for part in content)
        content = "".join(text for text in texts if isinstance(text, str)) or content
    return f"{_role(message)}\0{content}"[:MAX_BEGINNING]


class ReadBody(NamedTuple):
    """A body that all parsers read alike, and what is in it."""

    raw: bytes
    content_type: str
    body: dict[str, Any] | None = None
    form: Form | None = None


def read_fields(raw: bytes, content_type: str, path: ApiPath) -> ReadBody:
    """What a model is asked. A body for the account is passed on unread. Raises InvalidRequestError.

    Takes some 10 ns a byte; a large body is read in a thread, so that other requests go on meanwhile.
    """
    if path.kind == "account":
        return ReadBody(raw, content_type)
    if is_form(content_type):
        form = parse_form(raw, content_type)
        return ReadBody(raw, content_type, form=form.with_text("model", path.deployment) if path.deployment else form)
    body = parse_body(raw, content_type, path.path)
    if body is None:
        return ReadBody(raw, content_type)
    refuse_ambiguous(body)
    is_changed = has_repeated_names(raw, body) or next(other_models(body), None) is not None
    if path.deployment:
        body["model"], is_changed = path.deployment, True
    return ReadBody(dump(body) if is_changed else raw, content_type, body)


def parse_body(raw: bytes, content_type: str, path: str) -> dict[str, Any] | None:
    """The JSON object in a body, None if the body is of another type. Raises InvalidRequestError."""
    if is_form(content_type) or not (path in MODEL_PATHS or _is_json(content_type)) or not raw:
        return None
    if raw.count(b",") > MAX_VALUES:
        raise InvalidRequestError(f"The body of your request has more than {MAX_VALUES:,} values.")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"We could not parse the JSON body of your request: {error}.") from None
    if not isinstance(body, dict):
        raise InvalidRequestError("The body of your request is not a JSON object.")
    return body


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == JSON_TYPE


def refuse_ambiguous(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequestError where a target that ignores case would read another value than the gateway does."""
    folded: dict[str, str] = {}
    for name in body:
        key = name.casefold()
        other = folded.setdefault(key, name) if key not in READ else key
        if other != name:
            raise InvalidRequestError(f"Write `{other}`: the field `{name:.100}` could be read as it.", param=other)


def has_repeated_names(raw: bytes, body: Mapping[str, Any]) -> bool:
    """Whether a field may be there twice, or spelled in escapes: parsers differ in which one they read.

    Of objects within the body this is not asked; one that names a model is always written anew.
    """
    if len(body) > MAX_FIELDS or ESCAPED_NAME.search(raw):  # each field costs a look at all of the body
        return True
    return any(raw.count(b'"' + name.encode("utf-8", "surrogatepass") + b'"') > 1 for name in body)


def dump(body: Mapping[str, Any]) -> bytes:
    """Raises InvalidRequestError: what could be parsed may still be nested too deeply for this."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise InvalidRequestError("The body of your request is nested too deeply.") from None


def require_model(request: ClientRequest, path: ApiPath) -> None:
    """Raises InvalidRequestError where a model must be named and is not."""
    if path.needs_model and not request.model:
        raise InvalidRequestError("You must provide a model parameter.", param="model")


def refuse_background(request: ClientRequest, *, is_admin: bool) -> None:
    """Raises InvalidRequestError for an answer that is made after the request: no budget would see what it costs."""
    if request.body and request.body.get("background") and not is_admin:
        message = (
            "An answer in the background belongs to the account's own paths: they are open to keys made with --admin."
        )
        raise InvalidRequestError(message, param="background")


def other_models(body: Mapping[str, Any] | None) -> Iterator[str]:
    """Models that a body names beside its own: for hosted tools, in what a proxy merges into it, or as fallbacks."""
    for name, value in (body or {}).items():
        if isinstance(value, dict | list) and name not in OPAQUE:
            yield from _models_in(value, holds_names=_holds_names(name))


def _models_in(value: object, *, holds_names: bool, depth: int = 0) -> Iterator[str]:
    """`holds_names`: texts in it are models, as in LiteLLM's `fallbacks: [{"a": ["b"]}]`."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, str):
        if holds_names:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _models_in(item, holds_names=holds_names, depth=depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name.lower() == "model" and isinstance(item, str):
                yield item
            elif name not in SCHEMAS:
                yield from _models_in(item, holds_names=holds_names or _holds_names(name), depth=depth + 1)


def _holds_names(name: str) -> bool:
    return name.lower().endswith(("models", "fallbacks"))
