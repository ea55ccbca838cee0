"""Requests as clients send them: what passes, and how the rest is refused."""

from typing import Any

import pytest

from handler.api.protocol import ChatCompletionRequest, CompletionRequest, GenerationRequest, parse
from handler.api.sampling import sampling_params
from handler.engine.sampling_params import SamplingParams
from handler.errors import InvalidRequestError

MESSAGES = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}


def schema_format(**fields: Any) -> dict[str, Any]:
    """OpenAI's way to ask for an answer that follows a schema."""
    return {"type": "json_schema", "json_schema": fields}


def chat(**fields: Any) -> ChatCompletionRequest:
    return parse(ChatCompletionRequest, {"messages": MESSAGES, **fields})


def completion(**fields: Any) -> CompletionRequest:
    return parse(CompletionRequest, {"prompt": "Hello", **fields})


CLIENTS: dict[str, dict[str, Any]] = {
    "chatbot-ui of the blog": {
        "model": "llama",
        "messages": [{"role": "system", "content": "Be brief."}, *MESSAGES],
        "max_tokens": 1000,
        "temperature": 1,
        "stream": True,
    },
    "chatbot-ui": {
        "model": "demo",
        "messages": [{"role": "system", "content": "Be brief."}, *MESSAGES],
        "temperature": 0.5,
        "max_tokens": None,
        "stream": True,
    },
    "Open WebUI": {
        "model": "demo",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "metadata": {"chat_id": "c1"},
        "files": None,
        "features": {"web_search": False},
        "tools": [],
    },
    "LibreChat": {
        "model": "demo",
        "messages": MESSAGES,
        "user": "6500c1",
        "stream": True,
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "stop": None,
    },
    "LobeChat": {
        "model": "demo",
        "messages": [{"role": "system", "content": ""}, *MESSAGES],
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "lobe",
        "temperature": 0.6,
        "top_p": 1,
        "tools": None,
        "reasoning_effort": "medium",
    },
    "a tool's answer": {
        "messages": [
            {"role": "developer", "content": "Use tools."},
            *MESSAGES,
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
            {"role": "assistant", "tool_calls": [], "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "1", "name": "weather", "content": "sunny"},
        ],
        "tools": [TOOL],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
    },
}


@pytest.mark.parametrize("body", CLIENTS.values(), ids=CLIENTS)
def test_what_clients_send_passes(body: dict[str, Any]) -> None:
    """Nulls, unknown fields and text parts come from real clients every day."""
    request = parse(ChatCompletionRequest, body)

    assert request.messages == body["messages"]
    assert request.stream is body.get("stream", False)
    assert request.include_usage is ("stream_options" in body)


def test_a_null_is_an_absent_field() -> None:
    """A request of nulls is the same as one without them, all the way down."""
    fields = dict.fromkeys(ChatCompletionRequest.model_fields) | {"messages": MESSAGES}

    assert parse(ChatCompletionRequest, fields) == chat()
    assert chat(stream_options={"include_usage": None}) == chat()
    assert not chat(stream_options=None).include_usage


@pytest.mark.parametrize("request_", [chat(), completion()], ids=["chat", "completion"])
def test_what_is_not_said_is_left_to_the_engine(request_: ChatCompletionRequest | CompletionRequest) -> None:
    """Every sampling parameter is the engine's default if absent."""
    assert sampling_params(request_) == SamplingParams()


def test_sampling_parameters_have_the_engines_types() -> None:
    """What the wire has as lists and objects arrives as the tuples `SamplingParams` holds."""
    request = chat(stop="\n", dry_sequence_breakers=["a", "b"], logit_bias={"5": -100, "7": 1.5}, temperature=1)

    assert request.stop == ("\n",)
    assert request.dry_sequence_breakers == ("a", "b")
    assert request.logit_bias == ((5, -100.0), (7, 1.5))
    assert isinstance(request.temperature, float)


SCHEMA = {"properties": {"b": {"const": None}, "a": {"default": "é"}}}
SCHEMA_TEXT = '{"properties":{"b":{"const":null},"a":{"default":"é"}}}'
FORMATS: dict[str, tuple[Any, str | None]] = {
    "nothing": (None, None),
    "text": ({"type": "text"}, None),
    "object": ({"type": "json_object"}, '{"type":"object"}'),
    "llama-server's": ({"type": "json_object", "schema": SCHEMA}, SCHEMA_TEXT),
    "OpenAI's": (schema_format(name="point", strict=True, description="A point.", schema=SCHEMA), SCHEMA_TEXT),
    "llama-server's older": ({"type": "json_schema", "schema": SCHEMA}, SCHEMA_TEXT),
    "without a name": (schema_format(strict=None, schema=SCHEMA), SCHEMA_TEXT),
}


@pytest.mark.parametrize(("response_format", "json_schema"), FORMATS.values(), ids=FORMATS)
def test_response_formats(response_format: Any, json_schema: str | None) -> None:
    """The schema is passed on with all that is in it, nulls too, in its order."""
    for request in (chat(response_format=response_format), completion(response_format=response_format)):
        constraint = sampling_params(request).constraint
        assert (constraint.text if constraint else None) == json_schema


def test_other_names_of_parameters_are_known() -> None:
    """Clients of llama.cpp, of Hugging Face and of OpenAI name the same things differently."""
    request = chat(typ_p=0.5, repetition_penalty=1.1, max_completion_tokens=7, max_tokens=9, top_k=-1)

    assert (request.typical_p, request.repeat_penalty) == (0.5, 1.1)
    assert sampling_params(request).max_tokens == 7
    assert sampling_params(completion(n_predict=3)).max_tokens == 3
    assert request.top_k == 0


@pytest.mark.parametrize(
    ("fields", "num_logprobs"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 3}, 3),
    ],
)
def test_a_chat_asks_for_logprobs_with_two_fields(fields: dict[str, Any], num_logprobs: int | None) -> None:
    """`logprobs` alone asks for the sampled token's, `top_logprobs` for the likeliest beside it."""
    assert chat(**fields).num_logprobs == num_logprobs


def test_a_completion_asks_for_logprobs_with_a_number() -> None:
    """0 is a question, and absence is none."""
    assert completion(logprobs=0).num_logprobs == 0
    assert completion().num_logprobs is None


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_prompt_has_four_forms(prompt: Any, prompts: list[str | list[int]]) -> None:
    """Text or token ids, one or several, all become a list of prompts."""
    assert completion(prompt=prompt).prompts == prompts


def test_a_completion_may_repeat_its_prompt() -> None:
    """`echo`, and `best_of` where it asks for nothing."""
    assert completion(echo=True).echo
    assert completion(n=2, best_of=2, suffix="").n == 2


@pytest.mark.parametrize(
    ("fields", "num_prompt_logprobs"),
    [
        ({}, None),
        ({"echo": True}, None),
        ({"logprobs": 2}, None),
        ({"echo": True, "logprobs": 0}, 0),
        ({"prompt_logprobs": 0}, 0),
        ({"prompt_logprobs": False}, None),
        ({"prompt_logprobs": 3, "echo": True, "logprobs": 5}, 5),
    ],
)
def test_a_completion_asks_for_its_prompt_s_logprobs_in_two_ways(
    fields: dict[str, Any], num_prompt_logprobs: int | None
) -> None:
    """OpenAI's, and vLLM's; a request that asks in both gets what both need."""
    assert completion(**fields).num_prompt_logprobs == num_prompt_logprobs


def test_a_completion_may_be_of_no_token() -> None:
    """The prompt alone is of interest."""
    assert completion(max_tokens=0).token_limit == 0
    assert completion(n_predict=0).token_limit == 0


UNSUPPORTED = "unsupported_parameter"
INVALID = "invalid_request_error"

BAD_CHATS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"messages": None}, "messages", INVALID, "'messages' is missing"),
    ({"messages": []}, "messages", INVALID, "'messages' must not be empty"),
    ({"messages": "Hello"}, "messages", INVALID, 'must be a list (got "Hello")'),
    ({"messages": ["Hello"]}, "messages[0]", INVALID, "must be an object"),
    ({"messages": [{"content": "a"}]}, "messages[0].role", INVALID, "it is missing"),
    ({"messages": [*MESSAGES, {"role": "bot", "content": ""}]}, "messages[1].role", INVALID, 'got "bot"'),
    ({"messages": [{"role": ["user"], "content": ""}]}, "messages[0].role", INVALID, "got a list"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", INVALID, "is missing"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", INVALID, "a text or a list of text parts"),
    ({"messages": [{"role": "system", "content": [IMAGE]}]}, "messages[0].content", INVALID, 'got "image_url"'),
    ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, "messages[0].content", INVALID, 'got "image_url"'),
    ({"messages": [{"role": "assistant", "content": [AUDIO]}]}, "messages[0].content", INVALID, 'got "input_audio"'),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content", INVALID, "no data"),
    ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content", INVALID, 'got "file"'),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", INVALID, "no URL"),
    (
        {"messages": [{"role": "user", "content": ["a"]}]},
        "messages[0].content",
        INVALID,
        "parts of type text, image_url and",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", INVALID, "without text"),
    ({"messages": [{"role": "assistant", "tool_calls": "a"}]}, "messages[0].tool_calls", INVALID, "list of objects"),
    ({"temperature": 5}, "temperature", INVALID, "'temperature' must be at most 2 (got 5)"),
    ({"temperature": "0.7"}, "temperature", INVALID, "must be a number"),
    ({"temperature": float("nan")}, "temperature", INVALID, "finite"),
    ({"temperature": 10**400}, "temperature", INVALID, "..."),
    ({"repeat_penalty": float("inf")}, "repeat_penalty", INVALID, "finite"),
    ({"repetition_penalty": 0}, "repetition_penalty", INVALID, "greater than 0"),
    ({"typ_p": 2}, "typ_p", INVALID, "at most 1"),
    ({"top_p": 0}, "top_p", INVALID, "greater than 0"),
    ({"top_k": -2}, "top_k", INVALID, "at least -1"),
    ({"top_k": 2**31}, "top_k", INVALID, "at most"),
    ({"presence_penalty": -3}, "presence_penalty", INVALID, "at least -2"),
    ({"max_tokens": 0}, "max_tokens", INVALID, "at least 1"),
    ({"max_tokens": True}, "max_tokens", INVALID, "must be an integer (got true)"),
    ({"max_tokens": "12"}, "max_tokens", INVALID, 'must be an integer (got "12")'),
    ({"max_tokens": 5, "max_completion_tokens": -3}, "max_completion_tokens", INVALID, "at least 1"),
    ({"n": 17}, "n", INVALID, "at most 16"),
    ({"n": 1.5}, "n", INVALID, "integer"),
    ({"seed": 2**63}, "seed", INVALID, "less than"),
    ({"stream": "true"}, "stream", INVALID, "true or false"),
    ({"stream_options": True}, "stream_options", INVALID, "an object"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", INVALID, "true or false"),
    ({"stop": ["a"] * 100}, "stop", INVALID, "at most 32 texts (got 100)"),
    ({"stop": ["a", ""]}, "stop", INVALID, "1 to 256 characters"),
    ({"stop": "a" * 257}, "stop", INVALID, "1 to 256 characters"),
    ({"stop": [1]}, "stop", INVALID, "a text or a list of texts"),
    ({"dry_sequence_breakers": 5}, "dry_sequence_breakers", INVALID, "a list of texts"),
    ({"logit_bias": []}, "logit_bias", INVALID, "an object"),
    ({"logit_bias": {"hello": 1}}, "logit_bias", INVALID, 'no token id: "hello"'),
    ({"logit_bias": {"-1": 1}}, "logit_bias", INVALID, "no token id"),
    ({"logit_bias": {"5": 101}}, "logit_bias", INVALID, "from -100 to 100 (got 101)"),
    ({"logit_bias": {"5": float("nan")}}, "logit_bias", INVALID, "from -100 to 100"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", INVALID, "at most 1024"),
    ({"top_logprobs": 2}, "top_logprobs", INVALID, "needs 'logprobs'"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", INVALID, "at most 20"),
    ({"logprobs": 5}, "logprobs", INVALID, "true or false"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", UNSUPPORTED, "functions alone"),
    ({"tools": [TOOL], "tool_choice": {"function": {"name": "g"}}}, "tool_choice", INVALID, "names no tool"),
    ({"tools": [TOOL], "functions": [TOOL["function"]]}, "functions", INVALID, "exclude each other"),
    ({"functions": [{}]}, "functions[0].name", INVALID, "missing"),
    ({"reasoning_format": "xml"}, "reasoning_format", INVALID, "must be"),
    ({"thinking_token_budget": -2}, "thinking_token_budget", INVALID, "at least"),
    ({"response_format": {}}, "response_format.type", INVALID, "is missing"),
    (
        {"response_format": {"type": "xml"}},
        "response_format.type",
        INVALID,
        "'json_object' or 'json_schema' (got \"xml\")",
    ),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", INVALID, "is missing"),
    ({"response_format": schema_format(name="a")}, "response_format.json_schema.schema", INVALID, "is missing"),
    ({"response_format": schema_format(schema="{}")}, "response_format.json_schema.schema", INVALID, "an object"),
    ({"response_format": schema_format(schema={}, name=5)}, "response_format.json_schema.name", INVALID, "a text"),
    ({"response_format": "text"}, "response_format", INVALID, "an object"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", INVALID, "'messages'"),
]

BAD_PROMPTS: list[Any] = [5, [], [[]], [1, "a"], [[1], "a"], [True], [-1], [1.5], {"a": 1}]
BAD_COMPLETIONS: list[tuple[dict[str, Any], str, str, str]] = [
    *[({"prompt": prompt}, "prompt", INVALID, "must be a text, a list of texts") for prompt in BAD_PROMPTS],
    ({"prompt": None}, "prompt", INVALID, "'prompt' is missing"),
    ({"prompt": ["a"] * 2049}, "prompt", INVALID, "at most 2048"),
    ({"logprobs": True}, "logprobs", INVALID, "an integer"),
    ({"logprobs": 21}, "logprobs", INVALID, "at most 20"),
    ({"prompt": [1, 2], "suffix": "}"}, "suffix", INVALID, "not of token ids"),
    ({"best_of": 3, "stream": True}, "best_of", INVALID, "in a stream"),
    ({"best_of": 1, "n": 2}, "best_of", INVALID, "at least 'n'"),
    ({"max_tokens": -3}, "max_tokens", INVALID, "at least 0"),
    ({"prompt_logprobs": -1}, "prompt_logprobs", INVALID, "at least 0"),
    ({"prompt_logprobs": True}, "prompt_logprobs", INVALID, "an integer"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", UNSUPPORTED, "a stream"),
    ({"prompt": "a", "suffix": "}", "echo": True, "logprobs": 1}, "suffix", UNSUPPORTED, "no logprobs"),
]


def refused(model_cls: type[GenerationRequest], body: object) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as raised:
        parse(model_cls, body)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200
    return raised.value


@pytest.mark.parametrize(("fields", "param", "code", "fragment"), BAD_CHATS)
def test_a_wrong_chat_names_its_first_error(fields: dict[str, Any], param: str, code: str, fragment: str) -> None:
    """One short line in plain words, and the field's path without pydantic's noise."""
    error = refused(ChatCompletionRequest, {"messages": MESSAGES, **fields})

    assert (error.param, error.code) == (param, code)
    assert fragment in str(error)


@pytest.mark.parametrize(("fields", "param", "code", "fragment"), BAD_COMPLETIONS)
def test_a_wrong_completion_names_its_first_error(fields: dict[str, Any], param: str, code: str, fragment: str) -> None:
    """The same for completions."""
    error = refused(CompletionRequest, {"prompt": "Hello", **fields})

    assert (error.param, error.code) == (param, code)
    assert fragment in str(error)


def test_a_message_shows_little_of_a_long_value() -> None:
    """A client's value may be a secret, or long."""
    assert "x" * 50 not in str(refused(ChatCompletionRequest, {"messages": MESSAGES, "temperature": "x" * 5000}))


@pytest.mark.parametrize("body", [None, [], "text", 5])
def test_a_body_is_an_object(body: object) -> None:
    """Anything else has no fields to complain about."""
    assert refused(ChatCompletionRequest, body).param is None


def test_half_a_character_is_refused_wherever_it_is() -> None:
    """JSON can hold half of a surrogate pair, which no tokenizer can encode."""
    message = {"role": "user", "content": "a", "name": "\ud83d"}

    assert "not Unicode" in str(refused(ChatCompletionRequest, {"messages": [message]}))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
@pytest.mark.parametrize("limit", [-1, -2])
def test_no_limit_in_llama_servers_words(name: str, limit: int) -> None:
    """Also where nothing said would be OpenAI's 16 tokens."""
    request = completion(**{name: limit, "min_tokens": 20})

    assert sampling_params(request, 16).max_tokens is None
    assert sampling_params(request).min_tokens == 20
