"""Anthropic's Messages on the demo model, asked by the real Anthropic client as Claude Code asks."""

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import anthropic
import pytest

from tests.end_to_end.program import Server

pytestmark = pytest.mark.model

Json = dict[str, Any]
QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]
CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
ASKED: Json = {"model": "llama", "max_tokens": 80, "extra_body": {"temperature": 0}}  # its client knows it no more
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 30},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "cache_control": {"type": "ephemeral"},
}
ANY: Any = {"type": "any", "disable_parallel_tool_use": True}
SEARCH: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}


@pytest.fixture
async def claude(server: Server) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def num_prompt_tokens(usage: Any) -> int:
    return int(usage.input_tokens + (usage.cache_read_input_tokens or 0))


async def test_whole_and_counted(claude: anthropic.AsyncAnthropic) -> None:
    """The answer, and a prompt that has as many tokens as were counted before."""
    count = await claude.messages.count_tokens(model="llama", messages=CAPITAL, system="Be brief.")
    message = await claude.messages.create(**ASKED, messages=CAPITAL, system="Be brief.")

    assert "Paris" in text_of(message)
    assert message.stop_reason == "end_turn"
    assert num_prompt_tokens(message.usage) == count.input_tokens


async def test_stream(claude: anthropic.AsyncAnthropic) -> None:
    """The client's helper makes the same message of the events, and the prompt's size is told first."""
    whole = await claude.messages.create(**ASKED, messages=CAPITAL)
    async with claude.messages.stream(**ASKED, messages=CAPITAL) as stream:
        events = [event async for event in stream]
        message = await stream.get_final_message()

    assert text_of(message) == text_of(whole)
    assert message.stop_reason == whole.stop_reason
    assert events[0].type == "message_start"
    assert num_prompt_tokens(events[0].message.usage) == num_prompt_tokens(message.usage)
    assert "".join(event.text for event in events if event.type == "text") == text_of(whole)


async def test_limits(claude: anthropic.AsyncAnthropic) -> None:
    """A length and a stop sequence end it, and it says which."""
    counting: list[Any] = [{"role": "user", "content": "Count from 1 to 9, separated by commas: 1, 2, 3, "}]
    short = await claude.messages.create(**ASKED | {"max_tokens": 4}, messages=counting)
    plain = text_of(await claude.messages.create(**ASKED, messages=counting))
    stop = plain[5:8]
    stopped = await claude.messages.create(**ASKED, messages=counting, stop_sequences=["xyz", stop])

    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 4)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert text_of(stopped) == plain[: plain.index(stop)]


async def test_tools(claude: anthropic.AsyncAnthropic) -> None:
    """Call, result, answer, by stream and whole; a tool of Anthropic's own servers beside it does no harm."""
    asked = {**ASKED, "messages": QUESTION, "tools": [WEATHER, SEARCH], "tool_choice": ANY}
    first = await claude.messages.create(**asked)
    async with claude.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    call = first.content[-1]
    again = streamed.content[-1]

    assert isinstance(call, anthropic.types.ToolUseBlock)
    assert isinstance(again, anthropic.types.ToolUseBlock)
    assert first.stop_reason == streamed.stop_reason == "tool_use"
    assert (call.name, call.input) == (again.name, again.input)
    assert "Paris" in str(call.input["city"])

    result: Any = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": '{"temperature": 31, "sky": "clear"}'}],
    }
    turn: Any = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = await claude.messages.create(**ASKED, messages=turn, tools=[WEATHER, SEARCH], tool_choice={"type": "none"})

    assert "31" in text_of(second)
    assert (second.usage.cache_read_input_tokens or 0) >= num_prompt_tokens(first.usage)


async def test_an_answer_in_a_form(claude: anthropic.AsyncAnthropic) -> None:
    """`output_config.format` holds the text to a schema."""
    schema: Json = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 20}},
        "required": ["capital"],
    }
    schema["additionalProperties"] = False
    form: Any = {"format": {"type": "json_schema", "schema": schema}}
    message = await claude.messages.create(**ASKED, messages=CAPITAL, output_config=form)

    assert text_of(message).replace(" ", "").replace("\n", "") == '{"capital":"Paris"}'


async def test_as_claude_code_asks(claude: anthropic.AsyncAnthropic) -> None:
    """Beta route and headers, an accounting line that changes, cache marks, thinking and system messages between turns:
    each turn begins in the cache of the one before."""
    rules = " ".join(f"Rule {number}: be kind to llama number {number}." for number in range(40))
    turns: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}
    ]
    usages = []
    for code in ("0a1b2", "ffff0", "12345"):
        line = f"x-anthropic-billing-header: cc_version=2.1.200.abc; cc_entrypoint=cli; cch={code};"
        message = await claude.beta.messages.create(
            model="llama",
            max_tokens=16,
            extra_body={"temperature": 0},
            system=[
                {"type": "text", "text": line},
                {"type": "text", "text": rules, "cache_control": {"type": "ephemeral"}},
            ],
            messages=turns,
            tools=[WEATHER],
            metadata={"user_id": f"user_{code}"},
            thinking={"type": "enabled", "budget_tokens": 1024},
            betas=["claude-code-20250219", "interleaved-thinking-2025-05-14"],
        )
        usages.append(message.usage)
        turns += [
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [{"type": "text", "text": f"Go on, {code}."}]},
            {"role": "system", "content": "Keep it short."},
        ]

    assert num_prompt_tokens(usages[0]) > 300
    for before, after in pairwise(usages):
        assert (after.cache_read_input_tokens or 0) >= num_prompt_tokens(before)


async def test_errors(claude: anthropic.AsyncAnthropic) -> None:
    """In Anthropic's form, by what the client raises; a stream that cannot begin is one too."""
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.create(**ASKED | {"model": "other"}, messages=CAPITAL)
    with pytest.raises(anthropic.BadRequestError, match="context"):
        async with claude.messages.stream(**ASKED, messages=[{"role": "user", "content": 40_000 * "llama "}]):
            pass
    with pytest.raises(anthropic.BadRequestError, match="mcp_servers"):
        await claude.messages.create(
            model="llama", max_tokens=8, messages=CAPITAL, extra_body={"mcp_servers": [{"name": "x"}]}
        )
