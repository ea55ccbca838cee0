"""Requests of Anthropic's Messages as chat requests."""

import typing
from typing import Any

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_create_params

from handler.api.anthropic_request import HARMLESS, REFUSED, SAME, TRANSLATED, to_chat
from handler.errors import InvalidRequestError

Json = dict[str, Any]
HI: Json = {"messages": [{"role": "user", "content": "Hi"}]}
TOOL: Json = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}


def chat_messages(*messages: Json, **fields: Any) -> list[Json]:
    told: list[Json] = to_chat({"messages": list(messages), **fields})["messages"]
    return told


@pytest.mark.parametrize(
    "params",
    [
        message_create_params.MessageCreateParamsStreaming,
        beta_create_params.MessageCreateParamsStreaming,
        message_count_tokens_params.MessageCountTokensParams,
    ],
)
def test_every_parameter_of_the_client_is_listed(params: type) -> None:
    """A new version's new field fails here before it is let pass unread."""
    names = set(typing.get_type_hints(params))
    assert names - {*SAME, *TRANSLATED, *HARMLESS, *REFUSED} == set()


def test_system_prompt_begins_alike_in_each_request() -> None:
    """The accounting line of Claude Code changes each time, and would keep its prompts out of the prefix cache."""
    lines = [f"x-anthropic-billing-header: cc_version=2.1; cch={code};" for code in ("0a1b2", "ffff0")]
    first, second = (
        chat_messages(*HI["messages"], system=[{"type": "text", "text": line}, {"type": "text", "text": "Be brief."}])
        for line in lines
    )
    assert first == second == [{"role": "system", "content": "Be brief."}, *HI["messages"]]


def test_turn_with_tools() -> None:
    """Thoughts, text and calls are one message; results come before what else the user says."""
    told = chat_messages(
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "text", "text": "One moment."},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "it"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}},
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "gone", "is_error": True},
            ],
        },
    )
    call = {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
    assert told == [
        {"role": "assistant", "content": "One moment.", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: gone"},
        {"role": "user", "content": "And?"},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "look"}, {"tool_choice": {"type": "function", "function": {"name": "look"}}}),
        ({"type": "auto", "disable_parallel_tool_use": True}, {"tool_choice": "auto", "parallel_tool_calls": False}),
    ],
)
def test_tool_choice(choice: Json, expected: Json) -> None:
    """Each kind of choice has its like in a chat."""
    chat = to_chat({**HI, "tools": [TOOL], "tool_choice": choice})
    assert expected.items() <= chat.items()
    assert chat["tools"][0]["function"]["parameters"] == TOOL["input_schema"]


def test_thinking() -> None:
    """On with a budget, off, or as the model's template has it; variables of the template's own win."""
    assert to_chat({**HI, "thinking": {"type": "adaptive"}}) == HI
    enabled = to_chat({**HI, "thinking": {"type": "enabled", "budget_tokens": 1024}})
    assert enabled["thinking_budget_tokens"] == 1024
    assert enabled["chat_template_kwargs"]["enable_thinking"] is True
    disabled = to_chat({**HI, "thinking": {"type": "disabled"}, "chat_template_kwargs": {"x": 1}})
    assert disabled["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False, "x": 1}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "look"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": ["auto"]}}, "tool_choice.type"),
        ({"thinking": {"type": "hard"}}, "thinking.type"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ],
)
def test_what_cannot_be_done_is_named(fields: Json, param: str) -> None:
    """Nothing that would change the answer is passed over."""
    with pytest.raises(InvalidRequestError) as caught:
        to_chat({**HI, **fields})
    assert caught.value.param == param
