"""The table of fields, for the routes whose requests become a chat's."""

import typing
from collections.abc import Callable
from typing import Any

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_params
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types.responses import input_token_count_params, response_create_params

from handler.api import anthropic_request, response_request
from handler.api.parameters import OBEYED, TRANSLATED, Route, harmless, refused
from handler.api.protocol import ChatCompletionRequest, parse
from handler.api.translated_parameters import OBEYED as OWN
from handler.api.translated_parameters import renaming_errors
from handler.errors import ContextLengthError, InvalidRequestError

Json = dict[str, Any]
TO_CHAT: dict[Route, Callable[[object], Json]] = {
    "responses": response_request.to_chat,
    "messages": anthropic_request.to_chat,
}
BODIES: dict[Route, Json] = {
    "responses": {"input": "Hi"},
    "messages": {"messages": [{"role": "user", "content": "Hi"}]},
}
TYPES: dict[Route, tuple[type, ...]] = {
    "responses": (
        response_create_params.ResponseCreateParamsStreaming,
        input_token_count_params.InputTokenCountParams,
    ),
    "messages": (
        message_create_params.MessageCreateParamsStreaming,
        beta_create_params.MessageCreateParamsStreaming,
        message_count_tokens_params.MessageCountTokensParams,
        beta_count_params.MessageCountTokensParams,
    ),
}
TOOL: Json = {"name": "look", "input_schema": {"type": "object"}}
FUNCTION: Json = {"type": "function", "name": "look", "parameters": {"type": "object"}}
FORM: Json = {"type": "json_schema", "schema": {"type": "object"}}
# For each field a value that asks for something, and what it needs beside it.
ASKING: dict[Route, dict[str, Json]] = {
    "responses": {
        "instructions": {"instructions": "Be brief."},
        "input": {"input": "Hello"},
        "tools": {"tools": [FUNCTION]},
        "tool_choice": {"tools": [FUNCTION], "tool_choice": "required"},
        "text": {"text": {"format": {"type": "json_object"}}},
        "reasoning": {"reasoning": {"effort": "low"}},
        "max_output_tokens": {"max_output_tokens": 5},
        "top_logprobs": {"top_logprobs": 2},
        "include": {"include": ["message.output_text.logprobs"]},
    },
    "messages": {
        "system": {"system": "Be brief."},
        "messages": {"messages": [{"role": "user", "content": "Hello"}]},
        "tools": {"tools": [TOOL]},
        "tool_choice": {"tools": [TOOL], "tool_choice": {"type": "any"}},
        "stop_sequences": {"stop_sequences": ["x"]},
        "thinking": {"thinking": {"type": "disabled"}},
        "output_config": {"output_config": {"effort": "low"}},
        "output_format": {"output_format": FORM},
    },
}
# These change no chat: what they may ask for is done in any case, all else is refused.
NEVER_SEEN = {"context_management"}


def chat(route: Route, **fields: Any) -> ChatCompletionRequest:
    return parse(ChatCompletionRequest, TO_CHAT[route]({**BODIES[route], **fields}))


@pytest.mark.parametrize("route", TRANSLATED)
def test_every_parameter_of_the_client_is_in_it(route: Route) -> None:
    """The installed package's types are walked: a new one fails here until it is decided on."""
    known = OBEYED[route] | harmless(route).keys() | refused(route).keys()
    for params in TYPES[route]:
        assert set(typing.get_type_hints(params)) - known == set()


@pytest.mark.parametrize("route", TRANSLATED)
def test_what_is_called_obeyed_changes_the_chat(route: Route) -> None:
    """Each field of its own becomes something of the chat's; no name is in two lists."""
    assert ASKING[route].keys() | NEVER_SEEN >= OWN[route]
    for name, fields in ASKING[route].items():
        without = {key: value for key, value in fields.items() if key != name}
        assert chat(route, **fields) != chat(route, **without), name
    assert not OBEYED[route] & (harmless(route).keys() | refused(route).keys())
    assert not harmless(route).keys() & refused(route).keys()


@pytest.mark.parametrize("route", TRANSLATED)
def test_chats_own_fields_pass(route: Route) -> None:
    """Those that are called obeyed and are no field of its own are the chat's, by the same name."""
    assert OBEYED[route] - OWN[route] <= OBEYED["chat"]
    assert chat(route, min_p=0.25, seed=7, chat_template_kwargs={"x": 1}).min_p == 0.25


@pytest.mark.parametrize("route", TRANSLATED)
def test_what_is_refused_and_what_passes(route: Route) -> None:
    """Refused by its name, but for values that ask for nothing; harmless fields may hold anything."""
    plain = chat(route)
    for name, refusal in refused(route).items():
        with pytest.raises(InvalidRequestError) as caught:
            chat(route, **{name: "something"})
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
        for neutral in (None, *refusal.neutral):
            answer = chat(route, **{name: neutral})
            assert (answer.n, answer.stop, answer.wanted, answer.tool_request) == (
                plain.n,
                plain.stop,
                plain.wanted,
                plain.tool_request,
            )
    for name in harmless(route):
        assert chat(route, **{name: 42}) == plain


@pytest.mark.parametrize(
    ("route", "chats", "param"),
    [
        ("responses", "max_completion_tokens", "max_output_tokens"),
        ("responses", "messages[3].content", "input"),
        ("responses", "response_format.json_schema.schema", "text.format.schema"),
        ("messages", "stop", "stop_sequences"),
        ("messages", "thinking_budget_tokens", "thinking.budget_tokens"),
        ("messages", "stop_token_ids", "stop_token_ids"),
        ("messages", "messages[3]", "messages[3]"),
    ],
)
def test_errors_name_what_the_client_sent(route: Route, chats: str, param: str) -> None:
    """Message and param have the field's name on this route, and the kind of error stays."""
    with pytest.raises(ContextLengthError) as caught, renaming_errors(route):
        raise ContextLengthError(f"'{chats}' is too long", param=chats)
    assert (caught.value.param, str(caught.value)) == (param, f"'{param}' is too long")
