"""OpenAI's Responses on the demo model, asked by the real OpenAI client as Codex and the agents SDK ask."""

import json
from itertools import pairwise
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel, Field

pytestmark = pytest.mark.model

Json = dict[str, Any]
ASKED: Json = {"model": "llama", "temperature": 0, "max_output_tokens": 80}
CAPITAL = "What is the capital of France?"
QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]


class City(BaseModel):
    """What an answer must be."""

    capital: str = Field(max_length=20)
    size: int = Field(ge=1, le=9)


class Weather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=30)
    unit: Literal["celsius", "fahrenheit"]


WEATHER: Any = {"type": "function", "name": "get_weather", "strict": True} | {
    "description": "The weather in a city.",
    "parameters": openai.pydantic_function_tool(Weather)["function"]["parameters"],
}
ZOO: list[Any] = [{"type": "web_search"}, {"type": "local_shell"}, {"type": "custom", "name": "apply_patch"}]


def num_cached(response: Response) -> int:
    assert response.usage is not None
    return response.usage.input_tokens_details.cached_tokens


def num_prompt(response: Response) -> int:
    assert response.usage is not None
    return response.usage.input_tokens


async def test_whole_and_counted(client: openai.AsyncOpenAI) -> None:
    """The answer, and a prompt that has as many tokens as were counted before."""
    count = await client.responses.input_tokens.count(model="llama", input=CAPITAL, instructions="Be brief.")
    response = await client.responses.create(**ASKED, input=CAPITAL, instructions="Be brief.")

    assert "Paris" in response.output_text
    assert response.status == "completed"
    assert num_prompt(response) == count.input_tokens


async def test_stream(client: openai.AsyncOpenAI) -> None:
    """The client's helper makes the same response of the events, which are numbered."""
    whole = await client.responses.create(**ASKED, input=CAPITAL)
    async with client.responses.stream(**ASKED, input=CAPITAL) as stream:
        events = [event async for event in stream]
        response = await stream.get_final_response()

    assert response.output_text == whole.output_text
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_a_limit(client: openai.AsyncOpenAI) -> None:
    """The response is incomplete, and says why; so is its stream."""
    short = await client.responses.create(**ASKED | {"max_output_tokens": 4}, input="Tell me a long story.")
    events = [
        event
        async for event in await client.responses.create(
            **ASKED | {"max_output_tokens": 4}, input="Tell me a long story.", stream=True
        )
    ]

    assert short.status == "incomplete"
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"
    assert events[-1].type == "response.incomplete"


async def test_parse(client: openai.AsyncOpenAI) -> None:
    """The text comes as the model that its schema was made of; a tool's arguments too, by the stream helper."""
    answer = await client.responses.parse(**ASKED, input=CAPITAL, text_format=City)
    tool: Any = openai.pydantic_function_tool(Weather)
    choice: Json = {"tool_choice": "required", "parallel_tool_calls": False}
    async with client.responses.stream(**ASKED, **choice, input=CAPITAL, tools=[tool]) as stream:
        called = await stream.get_final_response()

    assert answer.output_parsed is not None
    assert answer.output_parsed.capital == "Paris"
    [call] = called.output
    assert call.type == "function_call"
    assert isinstance(call.parsed_arguments, Weather)


async def test_round_trip(client: openai.AsyncOpenAI) -> None:
    """Call, result, answer, with the client's own items sent back and OpenAI's other tools beside; each turn begins in
    the cache of the one before."""
    fields: Json = {**ASKED, "tools": [WEATHER, *ZOO], "store": False, "include": ["reasoning.encrypted_content"]}
    first = await client.responses.create(
        **fields, input=QUESTION, tool_choice={"type": "function", "name": "get_weather"}, parallel_tool_calls=False
    )
    call = first.output[-1]
    assert call.type == "function_call"
    assert Weather.model_validate_json(call.arguments)

    result: Any = {"type": "function_call_output", "call_id": call.call_id}
    result["output"] = json.dumps({"temperature": 31, "sky": "clear"})
    turns: list[Any] = [*QUESTION, *first.output, result]
    second = await client.responses.create(**fields, input=turns, tool_choice="none")
    turns += [
        *second.output,
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "And in Rome?"},
    ]
    third = await client.responses.create(**fields, input=turns, tool_choice="none")

    assert "31" in second.output_text
    assert third.output_text
    for before, after in pairwise((first, second, third)):
        assert num_cached(after) >= num_prompt(before)


async def test_an_empty_probe(client: openai.AsyncOpenAI) -> None:
    """Clients look with an empty text and one token whether a server answers."""
    response = await client.responses.create(model="llama", input="", max_output_tokens=1)

    assert response.usage is not None
    assert response.usage.output_tokens == 1


async def test_what_needs_a_store(client: openai.AsyncOpenAI) -> None:
    """It is refused by name, and what was not kept is not found."""
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(**ASKED, input=CAPITAL, previous_response_id="resp_1")
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve("resp_1")

    assert refused.value.param == "previous_response_id"
