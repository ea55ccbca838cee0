"""Reasoning over three APIs, by their official clients: the demo model behind the template of a model that reasons.

QwQ's template opens the thoughts in the prompt. The demo model was not trained to close them, so a budget does.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.chat.llama_templates import llama_templates
from tests.end_to_end.program import Server, serving

pytestmark = pytest.mark.model

BUDGET = 4  # tokens of thoughts, before the demo model has said all
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("thinker")
    template = folder / "template.jinja"
    template.write_text(llama_templates()["Qwen-QwQ-32B"])
    with serving(folder / "log", CHAT_TEMPLATE=str(template)) as server:
        yield server
        assert server.stop() == 0, server.log.read_text()


@pytest.fixture
async def gpt(thinker: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{thinker.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(thinker: Server) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=thinker.url, api_key="none", max_retries=0) as client:
        yield client


async def test_messages(claude: anthropic.AsyncAnthropic) -> None:
    """A block of thoughts with its signature, then the text; both go back into a next turn, which calls a tool."""
    asked: dict[str, Any] = {"model": "llama", "max_tokens": 80, "extra_body": {"temperature": 0}}
    thinking: Any = {"type": "enabled", "budget_tokens": BUDGET}
    async with claude.messages.stream(**asked, messages=QUESTION, thinking=thinking) as stream:
        kinds = [event.delta.type async for event in stream if event.type == "content_block_delta"]
        message = await stream.get_final_message()

    thoughts, text = message.content
    assert thoughts.type == "thinking"
    assert thoughts.thinking
    assert text.type == "text"
    assert text.text
    assert kinds.index("signature_delta") == kinds.count("thinking_delta")
    assert set(kinds[: kinds.index("signature_delta")]) == {"thinking_delta"}

    tool: Any = {"name": "weather", "description": "The weather in a city.", "input_schema": SCHEMA}
    any_one: Any = {"type": "any", "disable_parallel_tool_use": True}
    turns = [*QUESTION, {"role": "assistant", "content": message.content}, {"role": "user", "content": "Its weather?"}]
    second = await claude.messages.create(**asked, messages=turns, thinking=thinking, tools=[tool], tool_choice=any_one)

    assert [block.type for block in second.content] == ["thinking", "tool_use"]
    assert second.stop_reason == "tool_use"


async def test_chat(gpt: openai.AsyncOpenAI) -> None:
    """`reasoning_content` before `content`, streamed as whole, and counted as what it is."""
    fields: dict[str, Any] = {
        "model": "llama",
        "messages": QUESTION,
        "temperature": 0,
        "max_tokens": 80,
        "reasoning_effort": "low",
        "extra_body": {"reasoning_budget_tokens": BUDGET},
    }
    whole = await gpt.chat.completions.create(**fields)
    thoughts = text = ""
    async for chunk in await gpt.chat.completions.create(**fields, stream=True):
        delta = chunk.choices[0].delta
        assert not (text and (delta.model_extra or {}).get("reasoning_content"))
        thoughts += (delta.model_extra or {}).get("reasoning_content") or ""
        text += delta.content or ""

    message = whole.choices[0].message
    assert thoughts == (message.model_extra or {})["reasoning_content"] != ""
    assert text == message.content != ""
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert 0 < (whole.usage.completion_tokens_details.reasoning_tokens or 0) < whole.usage.completion_tokens


async def test_responses(gpt: openai.AsyncOpenAI) -> None:
    """An item of reasoning, and then the call of a tool."""
    tool: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
    async with gpt.responses.stream(
        model="llama",
        input="What is the weather in Paris?",
        tools=[tool],
        tool_choice="required",
        reasoning={"effort": "low"},
        parallel_tool_calls=False,
        temperature=0,
        max_output_tokens=80,
        extra_body={"reasoning_budget_tokens": BUDGET},
    ) as stream:
        numbers = [event.sequence_number async for event in stream]
        response = await stream.get_final_response()

    reasoning, call = response.output
    assert numbers == list(range(len(numbers)))
    assert reasoning.type == "reasoning"
    assert call.type == "function_call"
    assert call.name == "weather"
    assert response.status == "completed"
