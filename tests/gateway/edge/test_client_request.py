"""What is read of a request, and what a target is sent."""

import json
from typing import Any

import pytest

from local_gateway.config.settings import OpenAITarget, RunpodLbTarget
from local_gateway.config.settings import Target as TargetSettings
from local_gateway.edge.api_paths import parse_path
from local_gateway.edge.client_request import ClientRequest, other_models, parse_body, read_fields, require_model
from local_gateway.edge.multipart import parse_form
from local_gateway.errors import InvalidRequestError
from local_gateway.routing.router import Choice
from local_gateway.routing.upstream_call import call_for
from tests.gateway.targets.scripted import ScriptedBackend, make_target

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


def test_conversation_in_other_apis() -> None:
    """Anthropic's clients mark their last message for the cache, and no longer in the next turn; the first turn of
    Responses may be a text alone."""
    marked = [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]
    begun = demand_for({"model": "m", "messages": [{"role": "user", "content": marked}]}, "/messages")
    later = demand_for(
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}, "/messages"
    )
    text = demand_for({"model": "m", "input": "hello"}, "/responses")
    items = demand_for(
        {"model": "m", "input": [{"role": "user", "content": "hello"}, {"role": "user", "content": "x"}]}, "/responses"
    )

    assert begun.conversation("me") == later.conversation("me") != ""
    assert text.conversation("me") == items.conversation("me") != ""
    assert text.conversation("me") != demand_for({"model": "m", "input": "other"}, "/responses").conversation("me")


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
            require_model(demand_for(body), parse_path(CHAT))
        assert caught.value.param == "model"
    require_model(demand_for({}, "/files"), parse_path("/files"))
    require_model(demand_for({}, "/moderations"), parse_path("/moderations"))


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b'{"model": "a", "model": "gpt-4o"}', b'{"model":"gpt-4o"}'),
        (rb'{"\u006dodel": "a", "model": "gpt-4o"}', b'{"model":"gpt-4o"}'),
        (b'{"model": "m", "messages": [1], "messages": [2]}', b'{"model":"m","messages":[2]}'),
        (b'{"model": "m", "n":1, "n":5}', b'{"model":"m","n":5}'),
        (b'{"model": "m", "brand_new":1, "brand_new":5}', b'{"model":"m","brand_new":5}'),
        (b'{"model": "m", "tools": [{"model": "a", "model": "b"}]}', b'{"model":"m","tools":[{"model":"b"}]}'),
        (b'{"model": "m", "x": {"models": ["a"], "models": ["b"]}}', b'{"model":"m","x":{"models":["b"]}}'),
        (rb'{"model": "m", "x": {"mod\u0065l": "b"}}', b'{"model":"m","x":{"model":"b"}}'),
        (b'{ "model": "m" }', b'{ "model": "m" }'),
    ],
)
def test_fields_that_are_there_twice(raw: bytes, read: bytes) -> None:
    """The target is sent what was read, or it could read the other one: a model that the key must not use."""
    assert read_fields(raw, "application/json", parse_path(CHAT)).raw == read


@pytest.mark.parametrize(
    "name", ["Model", "MODEL", "Max_Tokens", "STREAM", "me\u017fsages", "to\u212aens", "Stream_Options", "N", "Best_Of"]
)
def test_names_in_another_case(name: str) -> None:
    """Some targets take them for the fields that the gateway reads; so no target sees them."""
    body = {"model": "cheap", "tokens": 1, name: "secret"}
    with pytest.raises(InvalidRequestError):
        read_fields(json.dumps(body, ensure_ascii=False).encode(), "application/json", parse_path(CHAT))


def test_parameters_in_another_case_are_dropped_too() -> None:
    """What the configuration takes out stays out, also for targets that do not care about case."""
    assert sent({"model": "gpt-4o", "Top_P": 1, "TOP_P": 2}, drop_params=["top_p"]) == {"model": "gpt-4o"}


def test_bodies_for_the_account_are_not_read() -> None:
    """No field of theirs can decide anything."""
    read = read_fields(b'{"model": "cheap"}', "application/json", parse_path("/v1/batches"))

    assert (read.raw, read.body, read.form) == (b'{"model": "cheap"}', None, None)


def test_bodies_with_many_fields() -> None:
    """They are written anew, unseen: looking for each of them in the body would take minutes."""
    body = {"model": "m", **{f"k{n}": n for n in range(100_000)}}
    read = read_fields(json.dumps(body).encode(), "application/json", parse_path(CHAT))

    assert read.raw == json.dumps(body, separators=(",", ":")).encode()


@pytest.mark.parametrize("raw", [b"[" + b"1," * 1_000_001 + b"1]", b'{"a":[' + b"{}," * 1_000_001 + b"1]}"])
def test_bodies_with_too_many_values(raw: bytes) -> None:
    """Reading them would hold up all others."""
    with pytest.raises(InvalidRequestError, match="values"):
        read_fields(raw, "application/json", parse_path(CHAT))


@pytest.mark.parametrize(
    ("body", "models"),
    [
        ({}, []),
        ({"tools": [{"type": "image_generation", "model": "secret"}]}, ["secret"]),
        ({"tools": [{"type": "mcp", "options": {"model": "secret"}}]}, ["secret"]),
        ({"tools": [{"type": "function", "parameters": {"properties": {"x": {"model": "a"}}}}]}, []),
        ({"models": ["a", "b"], "model": "c"}, ["a", "b"]),
        ({"plugins": [{"id": "web", "model": "secret"}]}, ["secret"]),
        ({"fallbacks": ["a", {"model": "b"}]}, ["a", "b"]),
        ({"tools": "model", "models": 5}, []),
        ({"extra_body": {"model": "a", "fallback_models": ["b"]}}, ["a", "b"]),
        ({"fallbacks": [{"x": ["a", "b"]}, {"y": ["c"]}]}, ["a", "b", "c"]),
        ({"tools": [{"type": "x", "MODEL": "a", "parameters": {"model": "b"}}]}, ["a"]),
        ({"options": {"draft": {"model": "a"}}}, ["a"]),
        ({"metadata": {"model": "a"}, "messages": [{"model": "b"}], "response_format": {"x": {"model": "c"}}}, []),
    ],
)
def test_models_of_tools(body: dict[str, Any], models: list[str]) -> None:
    """A key that may use some models only must not reach others through a tool, or a provider's fallbacks."""
    assert list(other_models(body)) == models


FORM = (
    b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"content-type: audio/wav\r\n\r\nRIFF\0\r\n\r\n--x--\r\n"
)
FORM_TYPE = "multipart/form-data; boundary=x"


def form_request(raw: bytes = FORM, path: str = "/audio/transcriptions") -> ClientRequest:
    read = read_fields(raw, FORM_TYPE, parse_path(path))
    return ClientRequest(path=parse_path(path).path, raw=read.raw, form=read.form, content_type=FORM_TYPE)


def test_forms_name_a_model() -> None:
    """As JSON does; the target is asked in its own words, and gets the file as it came."""
    request = form_request()
    call = call_for(request, choice_of(OpenAITarget(type="openai"), "large"))

    assert request.model == "whisper-1"
    again = parse_form(call.body, call.content_type)
    assert again.text("model") == "large"
    assert [part.content for part in again.parts if part.filename == "a.wav"] == [b"RIFF\0\r\n"]


def test_forms_of_deployments() -> None:
    """There the path names the model."""
    assert form_request(path="/openai/deployments/mine/audio/transcriptions").model == "mine"


@pytest.mark.parametrize(
    "part",
    [
        b'content-disposition: form-data; name="model"\r\n\r\nsecret',
        b'content-disposition: form-data; name="Model"\r\n\r\nsecret',
        b'content-disposition: form-data; name="model"; filename="x"\r\n\r\nsecret',
    ],
    ids=["twice", "case", "file"],
)
def test_forms_with_two_models(part: bytes) -> None:
    """Which of them a target reads is not known, so none does."""
    with pytest.raises(InvalidRequestError):
        assert form_request(b"--x\r\n" + part + b"\r\n" + FORM).model


@pytest.mark.parametrize(
    "raw",
    [
        b"", FORM[:-8], FORM.replace(b'name="model"', b"x=1"), FORM.replace(b"--x", b"--y"), b"--x\r\n\r\n" * 200,
        b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n' * 200 + b"--x--\r\n",
        FORM.replace(b"content-type: audio/wav", b'content-disposition: form-data; name="model"'),
    ],
)  # fmt: skip
def test_bad_forms(raw: bytes) -> None:
    """They are the client's mistake."""
    with pytest.raises(InvalidRequestError):
        form_request(raw)


@pytest.mark.parametrize(
    ("body", "user"),
    [
        ({"user": "ann"}, "ann"),
        ({"user": ""}, ""),
        ({"user": 5}, ""),
        ({"metadata": {"user_id": "bob"}}, "bob"),
        ({"user": "ann", "metadata": {"user_id": "bob"}}, "ann"),
        ({"metadata": "bob"}, ""),
        ({"user": "x" * 1000}, "x" * 200),
    ],
)
def test_end_user(body: dict[str, Any], user: str) -> None:
    """For whom an application asks."""
    assert demand_for(body).end_user == user


def test_options_of_the_wrong_kind() -> None:
    """What is wrong in them is for the target to say."""
    assert sent({"model": "gpt-4o", "stream": True, "stream_options": "yes"})["stream_options"] == "yes"
