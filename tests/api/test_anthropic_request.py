"""Requests of Anthropic's Messages as chat requests."""

from typing import Any

import pytest

from handler.api.anthropic_request import to_chat
from handler.errors import InvalidRequestError

Json = dict[str, Any]
HI: Json = {"messages": [{"role": "user", "content": "Hi"}]}
TOOL: Json = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}


def chat_messages(*messages: Json, **fields: Any) -> list[Json]:
    told: list[Json] = to_chat({"messages": list(messages), **fields})["messages"]
    return told


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


def test_tools_of_anthropics_own_are_left_out() -> None:
    """Servers run them, or models know them by heart; the client's own stay, under either spelling."""
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    chat = to_chat(
        {
            **HI,
            "tools": [
                search,
                TOOL,
                {"type": "bash_20250124", "name": "bash"},
                {**TOOL, "type": "custom", "name": "see"},
            ],
        }
    )
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["look", "see"]


def offered(*messages: Json, tools: list[Json]) -> list[str]:
    chat = to_chat({"messages": [*HI["messages"], *messages], "tools": tools})
    return [tool["function"]["name"] for tool in chat.get("tools", [])]


def test_tools_that_come_and_go() -> None:
    """A deferred tool is offered from where a system message or a result names it, until it is taken back."""
    hidden = {**TOOL, "name": "hidden", "defer_loading": True}
    reference = {"type": "tool_reference", "name": "hidden"}
    addition = {"role": "system", "content": [{"type": "tool_addition", "tool": reference}]}
    removal = {"role": "system", "content": [{"type": "tool_removal", "tool": reference}]}
    found = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "tool_reference", "tool_name": "hidden"}]}
    inline = {"type": "tool_definition", "definition": {**TOOL, "name": "new"}}
    unknown = {"type": "tool_reference", "name": "web_search"}

    assert offered(tools=[TOOL, hidden]) == ["look"]
    assert offered(addition, tools=[TOOL, hidden]) == ["look", "hidden"]
    assert offered(addition, removal, tools=[TOOL, hidden]) == ["look"]
    assert offered({"role": "user", "content": [found]}, tools=[TOOL, hidden]) == ["look", "hidden"]
    assert offered({"role": "system", "content": [{"type": "tool_addition", "tool": inline}]}, tools=[]) == ["new"]
    assert offered({"role": "system", "content": [{"type": "tool_addition", "tool": unknown}]}, tools=[TOOL]) == [
        "look"
    ]
    assert chat_messages(*HI["messages"], addition, tools=[TOOL, hidden]) == HI["messages"]
    assert chat_messages({"role": "user", "content": [found]})[0]["content"] == "hidden"


def test_system_messages_between_turns() -> None:
    """One that is for its turn alone is not shown in the next; the effort that the last one asks for counts."""
    short = {"role": "system", "content": "Soon gone.", "clear_at": "next_user_message"}
    assert chat_messages(*HI["messages"], short) == [*HI["messages"], {"role": "system", "content": "Soon gone."}]
    assert chat_messages(*HI["messages"], short, *HI["messages"]) == [*HI["messages"], *HI["messages"]]

    config = {"role": "system", "output_config": {"effort": "max"}}
    chat = to_chat({"messages": [*HI["messages"], config], "output_config": {"effort": "low"}})
    assert (chat["messages"], chat["reasoning_effort"]) == (HI["messages"], "max")


def test_thoughts_that_were_hidden() -> None:
    """They come back in the signature; one of Anthropic's own says nothing."""
    for signature, thought in (("plain:Hm.", "Hm."), ("EqQBCgIYAhIM", None), ("", None)):
        block = {"type": "thinking", "thinking": "", "signature": signature}
        [told] = chat_messages({"role": "assistant", "content": [block, {"type": "text", "text": "Yes."}]})
        assert told.get("reasoning_content") == thought


def test_images_and_results_with_them() -> None:
    """Images become a chat's parts; a failed result begins with the word."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    linked = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    told = chat_messages(
        {"role": "user", "content": [{"type": "text", "text": "See"}, image, linked]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "1", "content": [image], "is_error": True}],
        },
    )
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    assert told == [
        {"role": "user", "content": [{"type": "text", "text": "See"}, *parts]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "Error: "}, parts[0]]},
    ]


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
        ({"tools": [{"name": "look"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        (
            {"messages": [{"role": "system", "content": [{"type": "tool_addition", "tool": {"type": "mcp_toolset"}}]}]},
            "messages[0].content[0].tool",
        ),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": ["auto"]}}, "tool_choice.type"),
        ({"thinking": {"type": "hard"}}, "thinking.type"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ],
)
def test_what_cannot_be_done_is_named(fields: Json, param: str) -> None:
    """Nothing that would change the answer is passed over."""
    with pytest.raises(InvalidRequestError) as caught:
        to_chat({**HI, **fields})
    assert caught.value.param == param


@pytest.mark.parametrize("kind", ["image", "document"])
def test_a_stored_file_is_told_to_be_unknown(kind: str) -> None:
    """Clients that name one learn that its content has to be sent, not that the model reads no such kind."""
    block = {"type": kind, "source": {"type": "file", "file_id": "file_1"}}
    with pytest.raises(InvalidRequestError, match="no files are stored here"):
        to_chat({**HI, "messages": [{"role": "user", "content": [block]}]})
