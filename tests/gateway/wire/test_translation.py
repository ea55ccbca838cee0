"""Responses and Anthropic's Messages, asked of a target that has chat completions only."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from local_gateway.errors import AnswerBrokenError, InvalidRequestError
from local_gateway.wire.answer_reader import ReadAnswer
from local_gateway.wire.sse import DONE, encode, events_in
from local_gateway.wire.stream_collector import collect
from local_gateway.wire.translation import Translation

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "prompt_tokens_details": {"cached_tokens": 4}}
CHAT = {
    "id": "chatcmpl-1",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "reasoning_content": "hm", "content": "hello", "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": USAGE,
}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "chatcmpl-1", "model": "m", "choices": choices, **more}


CHUNKS = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "hm"}),
    chunk({"content": "hel"}),
    chunk({"content": "lo"}),
    chunk({"tool_calls": [{"index": 0, **CALL, "function": {"name": "f", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
    chunk({}, "tool_calls"),
    {"id": "chatcmpl-1", "model": "m", "choices": [], "usage": USAGE},
]


async def blocks_of(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


async def whole(path: str, chat: dict[str, Any] = CHAT, **body: Any) -> Any:
    read = ReadAnswer("application/json", blocks_of(json.dumps(chat).encode()))
    told = Translation(path, {"messages": [], **body}).answer(read)
    return json.loads(b"".join([block async for block in told.blocks]))


async def streamed(path: str, *chunks: dict[str, Any]) -> bytes:
    read = ReadAnswer("text/event-stream", blocks_of(*map(encode, chunks), DONE))
    told = Translation(path, {"messages": [], "stream": True}).answer(read)
    return b"".join([block async for block in told.blocks])


# Requests


def test_messages_become_a_chat() -> None:
    """System, results of tools before the rest of their turn, calls, images, tools and what else has another name."""
    body = {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.5,
        "stream": True,
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "ok"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [
                {"type": "text", "text": "look"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
                {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": "no"}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}, {"type": "web_search_1", "name": "w"}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }  # fmt: skip
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}

    assert Translation("/messages", body).chat == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.5,
        "stream": True,
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "ok", "reasoning_content": "hm", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t1", "content": "Error: no"},
            {"role": "user", "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "stop": ["x"],
        "user": "u",
        "reasoning_effort": "low",
    }  # fmt: skip


@pytest.mark.parametrize("as_blocks", [True, False], ids=["blocks", "text"])
def test_messages_without_what_differs_each_time(as_blocks: bool) -> None:
    """Claude Code's line for Anthropic's accounting: behind it a target would find no prefix in its cache."""
    line = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;"
    blocks = [{"type": "text", "text": line}, {"type": "text", "text": "Be brief."}]
    system = blocks if as_blocks else f"{line}\nBe brief."
    body = {"system": system, "messages": [{"role": "user", "content": line}]}

    assert Translation("/messages", body).chat["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": line},
    ]


def test_responses_become_a_chat() -> None:
    """Reasoning, text and calls of one turn are one message; tools of OpenAI's servers are left out."""
    body = {
        "model": "m",
        "instructions": "Be kind.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ok"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "7"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}, {"type": "web_search"}],
        "tool_choice": {"type": "function", "name": "f"},
        "max_output_tokens": 9,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
        "store": True,
        "include": ["reasoning.encrypted_content"],
    }
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

    assert Translation("/responses", body).chat == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "ok", "reasoning_content": "hm", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "7"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "max_tokens": 9,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/messages", {"messages": [], "mcp_servers": [{}]}),
        ("/messages", {"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}),
        ("/messages", {"messages": "hi"}),
        ("/responses", {"input": "hi", "previous_response_id": "resp_1"}),
        ("/responses", {"input": [{"type": "item_reference", "id": "x"}]}),
        ("/responses", {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
        ("/responses", {"input": 7}),
    ],
)
def test_what_a_chat_cannot_say(path: str, body: dict[str, Any]) -> None:
    """It is refused by name, never left out."""
    with pytest.raises(InvalidRequestError):
        Translation(path, body)


# Answers


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/messages/count_tokens", {"input_tokens": 12}),
        ("/responses/input_tokens", {"input_tokens": 12, "object": "response.input_tokens"}),
    ],
)
async def test_a_count_of_tokens(path: str, told: dict[str, Any]) -> None:
    """It is the count of the chat that would be asked for, in the API of the request."""
    asked = Translation(path, {"model": "m", "messages": [{"role": "user", "content": "hi"}], "input": "hi"})
    answer = asked.answer(ReadAnswer("application/json", blocks_of(b'{"object": "x", "input_tokens": 12}')))

    assert asked.path == "/chat/completions/input_tokens"
    assert asked.chat["messages"] == [{"role": "user", "content": "hi"}]
    assert json.loads(b"".join([piece async for piece in answer.blocks])) == told


async def test_what_is_no_count() -> None:
    answer = Translation("/messages/count_tokens", {"messages": []}).answer(
        ReadAnswer("application/json", blocks_of(b'{"tokens": []}'))
    )

    with pytest.raises(AnswerBrokenError):
        [piece async for piece in answer.blocks]


async def test_a_message() -> None:
    """Cached tokens are beside Anthropic's input tokens, not in them."""
    told = await whole("/messages")

    assert told["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
    ]
    assert (told["type"], told["stop_reason"], told["model"]) == ("message", "tool_use", "m")
    assert (told["usage"]["input_tokens"], told["usage"]["cache_read_input_tokens"]) == (6, 4)


@pytest.mark.parametrize(
    ("choice", "ending"),
    [
        ({"finish_reason": "stop"}, ("end_turn", None)),
        ({"finish_reason": "length"}, ("max_tokens", None)),
        ({"finish_reason": "stop", "stop_reason": "END"}, ("stop_sequence", "END")),
        ({"finish_reason": "content_filter"}, ("refusal", None)),
    ],
)
async def test_why_a_message_ended(choice: dict[str, Any], ending: tuple[str, str | None]) -> None:
    """In Anthropic's words."""
    told = await whole("/messages", {"choices": [{"message": {"content": "x"}, **choice}]})

    assert (told["stop_reason"], told["stop_sequence"]) == ending


async def test_a_stream_of_messages() -> None:
    """It spells the same message as the whole answer."""
    events = events_in(await streamed("/messages", *CHUNKS))
    told = collect("/messages", events)

    assert told == await whole("/messages")
    assert [event.chunk["type"] for event in events if isinstance(event.chunk, dict)][-2:] == [
        "message_delta",
        "message_stop",
    ]


async def test_a_response() -> None:
    """In OpenAI's types, and with what the request said."""
    told = await whole("/responses", instructions="Be kind.")
    parsed = Response.model_validate(told)

    assert [item.type for item in parsed.output] == ["reasoning", "message", "function_call"]
    assert (parsed.output_text, parsed.instructions, parsed.status) == ("hello", "Be kind.", "completed")
    assert (told["usage"]["input_tokens"], told["usage"]["input_tokens_details"]) == (
        10,
        {"cached_tokens": 4, "cache_write_tokens": 0},
    )


async def test_a_stream_of_responses() -> None:
    """Each event is one of OpenAI's types, numbered; an item is done before the next is added."""
    events = [event.chunk for event in events_in(await streamed("/responses", *CHUNKS))]
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    parsed = [adapter.validate_python(event) for event in events]
    steps = [event.type for event in parsed if "output_item" in event.type]

    assert [event.sequence_number for event in parsed] == list(range(len(parsed)))
    assert (parsed[0].response.output, parsed[2].item.content) == ([], [])
    assert steps == 3 * ["response.output_item.added", "response.output_item.done"]
    assert parsed[-1].response.output_text == "hello"
    assert parsed[-1].response.output[2].arguments == '{"a":1}'


async def test_a_response_that_was_cut() -> None:
    """It is incomplete, and says why."""
    events = [event.chunk for event in events_in(await streamed("/responses", chunk({"content": "x"}, "length")))]

    assert isinstance(events[-1], dict)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_edits_of_the_context() -> None:
    """Clearing thoughts of earlier turns, as Claude Code asks, is what templates do; other edits are refused."""
    thoughts = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    assert "context_management" not in Translation("/messages", {"messages": [], "context_management": thoughts}).chat
    with pytest.raises(InvalidRequestError, match="context_management"):
        Translation("/messages", {"messages": [], "context_management": {"edits": [{"type": "clear_tool_uses_1"}]}})


def test_tools_and_messages_as_claude_code_sends_them() -> None:
    """Deferred tools come and go in the conversation; a system message may be for one turn, or say nothing."""
    tools = [{"name": name, "input_schema": SCHEMA, "defer_loading": name != "f"} for name in ("f", "g", "h")]
    addition = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "g"}}
    found = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "tool_reference", "tool_name": "h"}]}
    removal = {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "f"}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "Soon gone.", "clear_at": "next_user_message"},
        {"role": "system", "content": [addition, removal]},
        {"role": "system", "output_config": {"effort": "high"}},
        {"role": "user", "content": [found]},
    ]
    chat = Translation("/messages", {"messages": messages, "tools": tools}).chat

    assert [tool["function"]["name"] for tool in chat["tools"]] == ["g", "h"]
    assert chat["reasoning_effort"] == "high"
    assert chat["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "tool", "tool_call_id": "1", "content": "h"},
    ]
    with pytest.raises(InvalidRequestError, match="mcp_toolset"):
        Translation(
            "/messages", {"messages": [{"role": "system", "content": [{**addition, "tool": {"type": "mcp_toolset"}}]}]}
        )
