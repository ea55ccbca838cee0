"""What the gateway reads in a client's request. Everything it does not read passes through. Knows no targets."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from local_gateway.edge.request import MODEL_PATHS
from local_gateway.errors import InvalidRequestError
from local_gateway.wire.call_ledger import CallLedger

JSON_TYPE = "application/json"
STREAM_PATHS = ("/chat/completions", "/completions", "/responses")
MAX_BEGINNING = 2000  # characters of each message that tell conversations apart


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRequest:
    """One request of a client. `body` is the parsed JSON object; None if it is something else, like a form."""

    path: str
    method: str = "POST"
    query: str = ""
    raw: bytes = b""
    body: Mapping[str, Any] | None = None
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # those that targets may see
    request_id: str = ""
    calls: CallLedger = field(default_factory=CallLedger, compare=False)  # what was sent to targets for it

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


def require_model(request: ClientRequest) -> None:
    """Raises InvalidRequestError where a model must be named and is not."""
    if request.path in MODEL_PATHS and not request.model:
        raise InvalidRequestError("You must provide a model parameter.", param="model")
