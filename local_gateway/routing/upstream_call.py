"""The call that one target is sent for a client's request: the client's own bytes, unless this target needs others.

Pure. A target's settings act on the body in this order: the model's name, `stream_usage`, `rename_params`,
`set_params`, `drop_params`.
"""

from collections.abc import Mapping
from typing import Any

from local_gateway.backends.base import Call
from local_gateway.edge.client_request import JSON_TYPE, ClientRequest, dump
from local_gateway.routing.router import Choice
from local_gateway.routing.target import Target
from local_gateway.wire.call_ledger import CallTally

# Only these streams have token counts to ask for by `stream_options`.
COUNTED_STREAMS = ("/chat/completions", "/completions")
STREAM_OPTIONS = "stream_options"


def call_for(request: ClientRequest, choice: Choice, *, who: str = "", tally: CallTally | None = None) -> Call:
    """What this target is sent: the same bytes, unless something in them has to change for it.

    `who` is the id of the key, by which conversations are told apart; `tally` counts what the call costs. Raises
    InvalidRequestError for a body that is nested too deeply to be written anew.
    """
    raw, content_type = request.raw, request.content_type
    if request.body is not None:
        body = adapted_body(request, choice)
        raw = request.raw if body == request.body else dump(body)
        content_type = JSON_TYPE
    elif request.form is not None and request.model:
        form = request.form.with_text("model", choice.model_name)
        raw, content_type = form.encode(), form.content_type
    return Call(
        path=request.path,
        method=request.method,
        query=request.query,
        body=raw,
        content_type=content_type,
        headers=request.headers,
        is_stream=request.is_stream,
        request_id=request.request_id,
        conversation=request.conversation(who) if choice.target.settings.type == "runpod_lb" else "",
        tally=tally or CallTally(),
    )


def adapted_body(request: ClientRequest, choice: Choice) -> dict[str, Any]:
    """The fields of the body as this target is sent them: what estimates and budgets count."""
    settings = choice.target.settings
    body = dict(request.body or {})
    if request.model:
        body["model"] = choice.model_name
    if adds_stream_options(request, choice.target):
        body["stream_options"] = _with_usage(body.get("stream_options"))
    body = _renamed(body, settings.rename_params) | settings.set_params
    if not settings.drop_params:
        return body
    dropped = {name.casefold() for name in settings.drop_params}  # a target may not care about case
    return {name: value for name, value in body.items() if name.casefold() not in dropped}


def adds_stream_options(request: ClientRequest, target: Target) -> bool:
    """Whether the gateway asks the target for the token counts of this stream."""
    is_counted = target.settings.stream_usage and request.is_stream and request.path in COUNTED_STREAMS
    return is_counted and STREAM_OPTIONS not in target.refused_fields


def _renamed(body: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Each field under the target's name for it; where the request has that one already, it wins."""
    if not names.keys() & body.keys():
        return body
    kept = {name: value for name, value in body.items() if name not in names}
    return {names[name]: value for name, value in body.items() if name in names} | kept


def _with_usage(options: object) -> object:
    """Options that are no object stay as they are: the target says so."""
    if options is None or isinstance(options, dict):
        return {**(options or {}), "include_usage": True}
    return options
