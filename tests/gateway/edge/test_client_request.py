"""What is read of a request, and what a target is sent."""

import json
from typing import Any

import pytest

from local_gateway.config.settings import OpenAITarget, RunpodLbTarget
from local_gateway.config.settings import Target as TargetSettings
from local_gateway.edge.client_request import ClientRequest, parse_body, require_model
from local_gateway.errors import InvalidRequestError
from local_gateway.routing.router import Choice
from local_gateway.routing.upstream_call import call_for
from tests.gateway.scripted_backend import ScriptedBackend, make_target

CHAT = "/chat/completions"


def demand_for(body: dict[str, Any], path: str = CHAT, **more: Any) -> ClientRequest:
    raw = json.dumps(body).encode()
    return ClientRequest(path=path, raw=raw, body=body, content_type="application/json", **more)


def choice_of(settings: TargetSettings, model: str = "gpt-4o") -> Choice:
    return Choice(make_target(ScriptedBackend(), settings=settings), model)


def sent(body: dict[str, Any], **settings: Any) -> Any:
    target = OpenAITarget(type="openai", **settings)
    return json.loads(call_for(demand_for(body), choice_of(target)).body)


def test_untouched() -> None:
    """Where nothing has to change the target gets the very bytes, spaces and order of fields included."""
    raw = b'{ "model":"gpt-4o",  "messages": [], "new_field": {"x": 1.0} }'
    request = ClientRequest(path=CHAT, raw=raw, body=json.loads(raw), content_type="application/json")

    assert call_for(request, choice_of(OpenAITarget(type="openai"))).body == raw


def test_models_name() -> None:
    """The target is asked in its own words."""
    assert sent({"model": "llama"}) == {"model": "gpt-4o"}


def test_unknown_fields_stay() -> None:
    """Parameters work on the day they appear."""
    body = {"model": "llama", "brand_new": [1, {"a": None}], "temperature": None}

    assert sent(body) == {**body, "model": "gpt-4o"}


def test_parameters() -> None:
    """What the configuration sets and drops."""
    body = {"model": "gpt-4o", "user": "me", "temperature": 2, "top_p": 1}

    assert sent(body, set_params={"temperature": 0}, drop_params=["user"]) == {
        "model": "gpt-4o",
        "temperature": 0,
        "top_p": 1,
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, {"include_usage": True}),
        ({"include_usage": False, "other": 1}, {"include_usage": True, "other": 1}),
        ({"include_usage": True}, {"include_usage": True}),
    ],
)
def test_streams_are_counted(options: object, expected: object) -> None:
    """The accounting asks for the token counts of streams, whether or not the client does."""
    body = {"model": "gpt-4o", "stream": True, "stream_options": options}

    assert sent(body)["stream_options"] == expected
    assert sent({**body, "stream": False})["stream_options"] == options
    assert sent(body, stream_usage=False)["stream_options"] == options


def test_wants_usage() -> None:
    """Only a client that asked for the usage chunk gets it."""
    assert demand_for({"stream_options": {"include_usage": True}}).wants_usage
    assert not demand_for({"stream_options": None}).wants_usage
    assert not demand_for({"stream_options": "yes"}).wants_usage


def test_conversation() -> None:
    """All turns of a conversation have one mark; another beginning, model or person another."""
    begin = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]
    later = [*begin, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "more"}]
    first = demand_for({"model": "m", "messages": begin}).conversation("me")

    assert demand_for({"model": "m", "messages": later}).conversation("me") == first
    assert demand_for({"model": "m", "messages": begin}).conversation("you") != first
    assert demand_for({"model": "n", "messages": begin}).conversation("me") != first
    assert demand_for({"model": "m", "messages": begin[1:]}).conversation("me") != first
    assert demand_for({"model": "m", "input": "text"}).conversation("me") == ""


def test_conversation_where_it_is_used() -> None:
    """Only load-balancing endpoints have workers to come back to."""
    request = demand_for({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
    balanced = RunpodLbTarget(type="runpod_lb", endpoint_id="e", api_key="k")

    assert call_for(request, choice_of(balanced)).conversation
    assert not call_for(request, choice_of(OpenAITarget(type="openai"))).conversation


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b'"text"', b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a": ' * 5000 + b"1" + b"}" * 5000],
    ids=["broken", "list", "string", "not-utf8", "nan", "deep-list", "deep-object"],
)
def test_bad_bodies(raw: bytes) -> None:
    """They are the client's mistake, however they are made."""
    with pytest.raises(InvalidRequestError):
        parse_body(raw, "application/json", CHAT)


def test_bodies_of_other_types() -> None:
    """A form is not read; what comes to a path of a model is JSON whatever it says."""
    assert parse_body(b"--x", "multipart/form-data; boundary=x", "/audio/transcriptions") is None
    assert parse_body(b'{"model": "m"}', "", CHAT) == {"model": "m"}
    assert parse_body(b"", "application/json", "/files") is None


def test_model_is_needed() -> None:
    """Where a model answers it must be named, by a text."""
    for body in ({}, {"model": ""}, {"model": 5}, {"model": None}):
        with pytest.raises(InvalidRequestError) as caught:
            require_model(demand_for(body))
        assert caught.value.param == "model"
    require_model(demand_for({}, "/files"))


@pytest.mark.parametrize(
    "raw",
    [b'{"model": "a", "model": "gpt-4o"}', rb'{"\u006dodel": "a", "model": "gpt-4o"}'],
    ids=["twice", "escaped"],
)
def test_fields_that_are_there_twice(raw: bytes) -> None:
    """The target is sent what was read, or it could read the other one: a model that the key must not use."""
    request = ClientRequest(path=CHAT, raw=raw, body=json.loads(raw), content_type="application/json")

    assert call_for(request, choice_of(OpenAITarget(type="openai"))).body == b'{"model":"gpt-4o"}'


def test_options_of_the_wrong_kind() -> None:
    """What is wrong in them is for the target to say."""
    assert sent({"model": "gpt-4o", "stream": True, "stream_options": "yes"})["stream_options"] == "yes"
