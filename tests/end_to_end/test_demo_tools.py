"""Tools on the demo model, asked by the real OpenAI client. It seldom calls by itself, so calls are asked for."""

import json
from typing import Any, Literal

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from pydantic import BaseModel, Field

pytestmark = pytest.mark.model

Messages = list[ChatCompletionMessageParam]
Json = dict[str, Any]


class Weather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=30)
    unit: Literal["celsius", "fahrenheit"]


class Add(BaseModel):
    """Add two numbers."""

    a: int = Field(ge=0, le=99)
    b: int = Field(ge=0, le=99)


WEATHER = openai.pydantic_function_tool(Weather, name="get_weather")
ADD = openai.pydantic_function_tool(Add, name="add")
NOT_STRICT: Json = {"type": "function", "function": {**ADD["function"], "strict": False}}
QUESTION: Messages = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]
ASKED: Json = {"model": "llama", "temperature": 0, "max_tokens": 80}


async def ask(client: openai.AsyncOpenAI, messages: Any = QUESTION, **fields: Any) -> ChatCompletion:
    answer = await client.chat.completions.create(messages=messages, **{**ASKED, **fields})
    assert isinstance(answer, ChatCompletion)
    return answer


def calls_of(answer: ChatCompletion) -> list[tuple[str, Json]]:
    """Names and arguments, in order."""
    calls = answer.choices[0].message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls if call.type == "function"]


@pytest.mark.parametrize("temperature", [0, 1.2])
async def test_a_call_that_is_required(client: openai.AsyncOpenAI, temperature: float) -> None:
    """One of the tools is called, by its schema, however hot it was drawn."""
    answer = await ask(
        client,
        temperature=temperature,
        tools=[WEATHER, NOT_STRICT],
        tool_choice="required",
        parallel_tool_calls=False,
    )

    [(name, arguments)] = calls_of(answer)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    models: dict[str, type[BaseModel]] = {"get_weather": Weather, "add": Add}
    assert models[name].model_validate(arguments)


async def test_a_named_tool(client: openai.AsyncOpenAI) -> None:
    """The one that is named, though another would fit better."""
    answer = await ask(
        client,
        tools=[WEATHER, NOT_STRICT],
        tool_choice={"type": "function", "function": {"name": "add"}},
        parallel_tool_calls=False,
    )

    [(name, arguments)] = calls_of(answer)
    assert name == "add"
    assert Add.model_validate(arguments)


async def test_several_calls(client: openai.AsyncOpenAI) -> None:
    """Where several may come, each is whole and has an id of its own."""
    answer = await ask(
        client,
        messages=[{"role": "user", "content": "Weather in Paris and in Rome, in celsius? Call get_weather twice."}],
        tools=[WEATHER],
        tool_choice="required",
    )

    calls = calls_of(answer)
    assert calls
    assert all(Weather.model_validate(arguments) for _, arguments in calls)
    assert len({call.id for call in answer.choices[0].message.tool_calls or []}) == len(calls)


async def test_stream_equals_whole(client: openai.AsyncOpenAI) -> None:
    """OpenAI's own helper makes the same message of the chunks."""
    fields: Json = {"messages": QUESTION, "tools": [WEATHER, NOT_STRICT], "tool_choice": "required", "seed": 1}
    whole = await ask(client, **fields)
    state = ChatCompletionStreamState(input_tools=[WEATHER])
    async for chunk in await client.chat.completions.create(**ASKED, **fields, stream=True):
        state.handle_chunk(chunk)
    streamed = state.get_final_completion()

    assert calls_of(whole)
    assert calls_of(streamed) == calls_of(whole)
    assert streamed.choices[0].finish_reason == whole.choices[0].finish_reason == "tool_calls"


async def test_stream_helper(client: openai.AsyncOpenAI) -> None:
    """Its events have the arguments as they come and parsed at the end."""
    async with client.chat.completions.stream(
        model="llama",
        messages=QUESTION,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=80,
    ) as stream:
        done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]

    [event] = done
    assert event.name == "get_weather"
    assert isinstance(event.parsed_arguments, Weather)


async def test_parse(client: openai.AsyncOpenAI) -> None:
    """A strict tool's arguments come as the model that its schema was made of."""
    answer = await client.chat.completions.parse(
        model="llama",
        messages=QUESTION,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=80,
    )

    [call] = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)


async def test_round_trip(client: openai.AsyncOpenAI) -> None:
    """Call, result, answer; the second turn begins in the cache of the first."""
    first = await ask(client, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    [call] = first.choices[0].message.tool_calls or []
    messages: list[Any] = [
        *QUESTION,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 31, "sky": "clear"}'},
    ]
    second = await ask(client, messages=messages, tools=[WEATHER], tool_choice="none")

    assert "31" in (second.choices[0].message.content or "")
    assert second.choices[0].finish_reason == "stop"
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= first.usage.prompt_tokens


async def test_an_answer_in_a_form_beside_tools(client: openai.AsyncOpenAI) -> None:
    """Either comes: the object that was asked for, or a call."""
    form = {"type": "json_schema", "json_schema": {"name": "add", "strict": True, "schema": Add.model_json_schema()}}
    answer = await ask(
        client, messages=[{"role": "user", "content": "Two numbers?"}], tools=[WEATHER], response_format=form
    )

    if answer.choices[0].finish_reason == "tool_calls":
        assert calls_of(answer)
    else:
        assert Add.model_validate_json(answer.choices[0].message.content or "")


async def test_old_functions(client: openai.AsyncOpenAI) -> None:
    """Asked by name in the older form."""
    answer = await ask(client, functions=[WEATHER["function"]], function_call={"name": "get_weather"})

    function_call = answer.choices[0].message.function_call
    assert function_call is not None
    assert Weather.model_validate_json(function_call.arguments)
    assert answer.choices[0].finish_reason == "function_call"


async def test_sixteen_tools(client: openai.AsyncOpenAI) -> None:
    """The schemas of a whole agent, with keywords that cannot be followed, are no error unless they are strict."""
    properties = {"path": {"type": "string", "maxLength": 20}, "flags": {"type": "array", "uniqueItems": True}}
    tools: list[Any] = [
        {
            "type": "function",
            "function": {
                "name": f"tool_{number}",
                "parameters": {"type": "object", "properties": properties, "required": ["path"], "not": {"a": 1}},
            },
        }
        for number in range(16)
    ]
    answer = await ask(
        client,
        max_tokens=120,
        messages=QUESTION,
        tools=tools,
        tool_choice={"type": "function", "function": {"name": "tool_7"}},
    )
    tools[7]["function"]["strict"] = True
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(client, tools=tools, tool_choice="required")

    assert answer.choices[0].message.tool_calls or answer.choices[0].finish_reason == "length"
    assert refused.value.param == "tools[7].function.parameters"
