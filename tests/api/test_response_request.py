"""Requests of OpenAI's Responses as chat requests."""

from typing import Any

import pytest

from handler.api.protocol import ChatCompletionRequest, parse
from handler.api.response_request import to_chat
from handler.errors import InvalidRequestError

Json = dict[str, Any]
TOOL: Json = {"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object"}}


def chat_messages(*items: Json, **fields: Any) -> list[Json]:
    told: list[Json] = to_chat({"input": list(items), **fields})["messages"]
    return told


def test_text_and_instructions() -> None:
    """The shortest request; an empty text is one too, as clients send it to see whether a server is there."""
    assert to_chat({"input": "Hi", "instructions": "Be brief.", "max_output_tokens": 5}) == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_completion_tokens": 5,
    }
    assert to_chat({"input": "", "instructions": ""}) == {"messages": [{"role": "user", "content": ""}]}
    assert chat_messages(instructions="Begin.") == [{"role": "system", "content": "Begin."}]


def test_a_turn_of_several_items() -> None:
    """Reasoning, text and calls are one message of the assistant; results follow, in their order."""
    told = chat_messages(
        {"role": "developer", "content": "Be brief."},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Look "}, {"type": "input_text", "text": "twice."}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Well.", "annotations": []}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "look",
            "arguments": "{}",
            "status": "completed",
        },
        {"type": "function_call", "call_id": "call_2", "name": "look", "arguments": '{"at": 1}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "gone"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "there"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    )
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        {"id": "call_2", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}},
    ]
    assert told == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Look twice."},
        {"role": "assistant", "content": "Well.", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "gone"},
        {"role": "tool", "tool_call_id": "call_2", "content": "there"},
        {"role": "assistant", "content": "No."},
    ]


@pytest.mark.parametrize(
    ("item", "thought"),
    [
        ({"summary": [], "encrypted_content": "plain:Hm."}, "Hm."),
        (
            {"summary": [{"type": "summary_text", "text": "It thought."}], "encrypted_content": "gAAAAxyz"},
            "It thought.",
        ),
        ({"summary": [], "encrypted_content": "gAAAAxyz"}, None),
        ({"summary": [], "content": [], "encrypted_content": None}, None),
    ],
)
def test_reasoning_comes_back(item: Json, thought: str | None) -> None:
    """As it was given, whichever field the client kept; what another server encrypted is left out."""
    told = chat_messages({"type": "reasoning", "id": "rs_1", **item}, {"role": "assistant", "content": "Yes."})
    assert told[-1].get("reasoning_content") == thought


def test_images() -> None:
    """They are a chat's parts, in questions and in results."""
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    told = chat_messages(
        {"role": "user", "content": [{"type": "input_text", "text": "See"}, image]},
        {"type": "function_call_output", "call_id": "1", "output": [image]},
    )
    assert [message["content"] for message in told] == [[{"type": "text", "text": "See"}, part], [part]]


def test_tools() -> None:
    """Functions are taken over; what OpenAI's servers would run is left out, among the allowed ones too."""
    zoo: list[Json] = [{"type": kind} for kind in ("web_search", "image_generation", "custom", "local_shell", "mcp")]
    allowed = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "web_search"}, {"type": "function", "name": "look"}],
    }
    body = {"input": "Hi", "tools": [*zoo, {**TOOL, "strict": True}, {"type": "namespace", "tools": [TOOL]}]}
    chat = parse(ChatCompletionRequest, to_chat({**body, "tool_choice": allowed}))
    named = parse(ChatCompletionRequest, to_chat({**body, "tool_choice": {"type": "function", "name": "look"}}))

    assert chat.tools == [
        {
            "type": "function",
            "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}, "strict": True},
        }
    ]
    assert (chat.tool_request.choice, chat.tool_request.allowed) == ("required", ("look",))
    assert (named.tool_request.choice, named.tool_request.allowed) == ("required", ("look",))
    assert to_chat({"input": "Hi", "tools": zoo, "tool_choice": "auto"})["tools"] == []


def test_form_and_effort() -> None:
    """A schema lies flat here, and in an object of its own in a chat."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "thing", "schema": schema, "strict": True}
    chat = to_chat({"input": "Hi", "text": {"format": form, "verbosity": "low"}, "reasoning": {"effort": "none"}})
    assert chat["response_format"]["json_schema"] == {"name": "thing", "schema": schema, "strict": True}
    assert chat["reasoning_effort"] == "none"
    assert "response_format" not in to_chat({"input": "Hi", "text": {"format": {"type": "text"}}})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "Hi"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "look"}]}, "input[0].arguments"),
        ({"instructions": ["x"]}, "instructions"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"background": True}, "background"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"reasoning": "high"}, "reasoning"),
        ({"tools": {}}, "tools"),
        ({"include": "all"}, "include"),
        ({"include": [1]}, "include"),
    ],
)
def test_what_cannot_be_done_is_named(fields: Json, param: str) -> None:
    """Nothing that would change the answer is passed over."""
    with pytest.raises(InvalidRequestError) as caught:
        to_chat({"input": "Hi", **fields})
    assert caught.value.param == param


@pytest.mark.parametrize("kind", ["input_file", "input_image"])
def test_a_stored_file_is_told_to_be_unknown(kind: str) -> None:
    """Clients that name one learn that its content has to be sent, not that the model reads no such kind."""
    with pytest.raises(InvalidRequestError, match="no files are stored here"):
        chat_messages({"role": "user", "content": [{"type": kind, "file_id": "file-1"}]})
