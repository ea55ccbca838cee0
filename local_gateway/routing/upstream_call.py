"""The call that one target is sent for a client's request: the client's own bytes, unless this target needs others."""

import re
from typing import Any

import orjson

from local_gateway.backends.base import Call
from local_gateway.edge.client_request import JSON_TYPE, ClientRequest
from local_gateway.errors import InvalidRequestError
from local_gateway.routing.router import Choice

# Only these streams have token counts to ask for by `stream_options`.
COUNTED_STREAMS = ("/chat/completions", "/completions")
# What the gateway decides by: who may use it, what it costs, how it is answered.
READ = tuple(
    f'"{name}"'.encode()
    for name in ("model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n")
)
ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")


def call_for(request: ClientRequest, choice: Choice, *, scope: str = "") -> Call:
    """What this target is sent: the same bytes, unless something in them has to change for it."""
    raw, content_type = request.raw, request.content_type
    if request.body is not None:
        body = adapted_body(request, choice)
        raw = request.raw if body == request.body and not _is_ambiguous(request.raw) else _dump(body)
        content_type = JSON_TYPE
    return Call(
        path=request.path,
        method=request.method,
        query=request.query,
        body=raw,
        content_type=content_type,
        headers=request.headers,
        is_stream=request.is_stream,
        request_id=request.request_id,
        conversation=request.conversation(scope) if choice.target.settings.type == "runpod_lb" else "",
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


def adapted_body(request: ClientRequest, choice: Choice) -> dict[str, Any]:
    """The fields that this target is sent; none for what is no JSON object."""
    settings = choice.target.settings
    body = dict(request.body or {})
    if request.model:
        body["model"] = choice.model_name
    if settings.stream_usage and request.is_stream and request.path in COUNTED_STREAMS:
        body["stream_options"] = _with_usage(body.get("stream_options"))
    body |= settings.set_params
    return {name: value for name, value in body.items() if name not in settings.drop_params}


def _with_usage(options: object) -> object:
    """What is no set of options stays as it is: the target says so."""
    if options is None or isinstance(options, dict):
        return {**(options or {}), "include_usage": True}
    return options
