"""Anthropic's Messages through the HTTP edge and as jobs, on a fake model, read by Anthropic's own client."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anthropic
import httpx2
import pytest

from handler.api.anthropic_events import usage, whole_message
from handler.api.stream import EventStream
from handler.engine.sequence import SequenceUsage
from handler.errors import DecodeError
from handler.job import make_handler
from tests.api.test_tools import CALL, OTHER, SPECIALS, TEMPLATE, WEATHER
from tests.fake_worker import FakeWorker, Json, fake_worker
from tests.http.test_edge import edge_of

HI: Any = {"model": "llama", "max_tokens": 200, "messages": [{"role": "user", "content": "Hi"}]}
TOOLS: Any = [{"name": "weather", "description": "d", "input_schema": WEATHER["parameters"]}]


@contextmanager
def worker_saying(answer: str, prompt: str = "[d]Hi>") -> Iterator[FakeWorker]:
    with fake_worker({prompt: answer}, template=TEMPLATE, specials=SPECIALS) as worker:
        yield worker


@asynccontextmanager
async def client_of(worker: FakeWorker) -> AsyncIterator[anthropic.AsyncAnthropic]:
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=edge_of(worker).app))
    async with anthropic.AsyncAnthropic(
        api_key="none", base_url="http://localhost", http_client=http, max_retries=0
    ) as client:
        yield client


def told(text: str) -> list[Json]:
    """The events of a stream, each under its name."""
    events = []
    for event in text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def without_ids(message: Json) -> Json:
    blocks = [{name: value for name, value in block.items() if name != "id"} for block in message["content"]]
    return {**message, "id": "", "content": blocks}


async def test_whole() -> None:
    """A message has the text, why it ended, and what it cost."""
    with fake_worker() as worker:
        answer = await worker.api.call("/v1/messages?beta=true", HI)

    assert isinstance(answer, dict)
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "llama",
        "content": [{"type": "text", "text": "Hello!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 7,
        },
    }


@pytest.mark.parametrize(
    "answer", ["Hello!", CALL, f"Let me see.\n{CALL}\n{OTHER}", "<think>\nHm.\n</think>\n\nYes.", ""]
)
async def test_stream_equals_whole(answer: str) -> None:
    """The client makes of a stream what it reads from a whole answer, and the events are in their order."""
    with worker_saying(answer) as worker:
        async with client_of(worker) as client:
            whole = await client.messages.create(**HI, tools=TOOLS)
            async with client.messages.stream(**HI, tools=TOOLS) as stream:
                streamed = await stream.get_final_message()
            raw = await client.messages.with_raw_response.create(**HI, tools=TOOLS, stream=True)
            events = told((await raw.http_response.aread()).decode())

    one, other = without_ids(whole.to_dict()), without_ids(streamed.to_dict())
    for message in (one, other):  # the second answer finds the first one's prompt in the cache
        message.pop("usage")
        for block in message["content"]:
            block.pop("parsed_output", None)
    assert one == other
    assert [event["type"] for event in (events[0], events[-2], events[-1])] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            assert not is_open
            is_open = True
        elif event["type"] == "content_block_stop":
            assert is_open
            is_open = False


async def test_calls() -> None:
    """Each call is a block with its arguments as an object and an id of its own."""
    with worker_saying(f"{CALL}\n{OTHER}") as worker:
        async with client_of(worker) as client:
            message = await client.messages.create(**HI, tools=TOOLS)

    first, second = message.content
    assert isinstance(first, anthropic.types.ToolUseBlock)
    assert isinstance(second, anthropic.types.ToolUseBlock)
    assert (first.input, second.input) == ({"city": "Paris"}, {"city": "Zürich"})
    assert first.id != second.id
    assert message.stop_reason == "tool_use"


async def test_thinking() -> None:
    """It is switched on and off by the template's own variable, is a block before the text, and is taken back."""
    template = TEMPLATE.replace("thinks", "enable_thinking")
    scripts = {"Hi><think>\n": "Hm.\n</think>\n\nYes.", "HiYes.And?>": "No."}
    on: Any = {"type": "enabled", "budget_tokens": 1024}
    with fake_worker(scripts, template=template, specials=SPECIALS) as worker:
        async with client_of(worker) as client:
            message = await client.messages.create(**HI, thinking=on)
            async with client.messages.stream(**HI, thinking=on) as stream:
                events = [event.type async for event in stream]
                streamed = await stream.get_final_message()
            off = await client.messages.create(**HI, thinking={"type": "disabled"})
            turns: Any = [*HI["messages"], {"role": "assistant", "content": message.content}]
            turns.append({"role": "user", "content": "And?"})
            second = await client.messages.create(**HI | {"messages": turns})

    for each in (message, streamed):
        assert [block.type for block in each.content] == ["thinking", "text"]
        assert isinstance(thought := each.content[0], anthropic.types.ThinkingBlock)
        assert (thought.thinking, thought.signature) == ("Hm.", "")
    assert events.index("signature") < events.index("text")
    assert [block.type for block in off.content] == ["text"]
    assert isinstance(text := second.content[0], anthropic.types.TextBlock)
    assert text.text == "No."


async def test_thinking_that_is_not_shown() -> None:
    """The block is empty for the client, and its signature has the thoughts for the next turn; a stream stays alive."""
    template = TEMPLATE.replace("thinks", "enable_thinking")
    on: Any = {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}
    with fake_worker({"Hi><think>\n": "Hm.\n</think>\n\nYes."}, template=template, specials=SPECIALS) as worker:
        async with client_of(worker) as client:
            message = await client.messages.create(**HI, thinking=on)
            async with client.messages.stream(**HI, thinking=on) as stream:
                streamed = await stream.get_final_message()

    for each in (message, streamed):
        assert [block.type for block in each.content] == ["thinking", "text"]
        assert isinstance(thought := each.content[0], anthropic.types.ThinkingBlock)
        assert (thought.thinking, thought.signature) == ("", "plain:Hm.")


async def test_stop_sequence() -> None:
    """The message says which of the sequences ended it."""
    with fake_worker() as worker:
        async with client_of(worker) as client:
            message = await client.messages.create(**HI, stop_sequences=["xyz", "lo"])

    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "lo")


async def test_count() -> None:
    """The prompt is counted, and nothing is generated."""
    with fake_worker() as worker:
        async with client_of(worker) as client:
            count = await client.messages.count_tokens(model="llama", messages=HI["messages"])
    assert count.input_tokens == 3


async def test_errors_are_in_its_form() -> None:
    """The client finds type and message where it looks for them."""
    with fake_worker() as worker:
        async with client_of(worker) as client:
            with pytest.raises(anthropic.NotFoundError) as unknown:
                await client.messages.create(**HI | {"model": "other"})
            with pytest.raises(anthropic.BadRequestError) as bad:
                await client.messages.create(**HI, extra_body={"temperature": 9})

    assert isinstance(unknown.value.body, dict)
    assert unknown.value.body["error"]["type"] == "not_found_error"
    assert isinstance(bad.value.body, dict)
    assert bad.value.body["type"] == "error"
    assert "temperature" in bad.value.body["error"]["message"]


async def test_addresses_that_are_not_here_say_so_in_its_form() -> None:
    """Batches and all else below the messages' address."""
    with fake_worker() as worker:
        async with client_of(worker) as client:
            with pytest.raises(anthropic.NotFoundError) as unknown:
                await client.messages.batches.retrieve("batch_1")

    assert isinstance(unknown.value.body, dict)
    assert unknown.value.body["error"]["type"] == "not_found_error"


async def test_as_a_job() -> None:
    """RunPod's route carries the same: a message, its events, and errors of either kind with their status."""
    with fake_worker() as worker:
        handle = make_handler(worker.api)

        async def outputs(body: Json) -> list[Any]:
            job = {"id": "1", "input": {"openai_route": "/v1/messages", "openai_input": body}}
            return [output async for output in handle(job)]

        (whole,) = await outputs(HI)
        events = told("".join(await outputs({**HI, "stream": True})))
        (failed,) = await outputs({**HI, "messages": []})
        (event,) = told("".join(await outputs({**HI, "messages": [], "stream": True})))

    assert without_ids(whole)["content"] == without_ids(whole_message(events))["content"]
    for error in (json.loads(failed["error"]), event):
        assert (error["type"], error["status"], error["error"]["type"]) == ("error", 400, "invalid_request_error")


async def test_usage_is_told_at_the_start() -> None:
    """Clients that show the size of the prompt read it there; the end has it again, with the answer's."""
    with fake_worker() as worker:
        stream = await worker.api.call("/v1/messages", {**HI, "stream": True})
        assert isinstance(stream, EventStream)
        start, *_, delta, _ = told("".join([item async for item in stream]))
    assert start["message"]["usage"] == {**delta["usage"], "output_tokens": 0}
    assert (delta["usage"]["input_tokens"], delta["usage"]["output_tokens"]) == (3, 7)


@pytest.mark.parametrize(
    ("max_tokens", "reason"),
    [(5, "max_tokens"), (500, "model_context_window_exceeded"), (-1, "model_context_window_exceeded")],
)
async def test_an_answer_without_end(max_tokens: int, reason: str) -> None:
    """It ends at the client's limit, or where the context is full."""
    body = {**HI, "messages": [{"role": "user", "content": "endless"}], "max_tokens": max_tokens}
    with fake_worker(num_cells=100) as worker:
        answer = await worker.api.call("/v1/messages", body)
    assert isinstance(answer, dict)
    assert answer["stop_reason"] == reason


def test_cached_tokens_are_no_input_tokens() -> None:
    """What was found in the cache is counted apart, and both together are the prompt."""
    assert usage(SequenceUsage(10, 4, 3)) == {
        "input_tokens": 6,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 3,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ('{"a": 1}', {"a": 1}),
        ('{"a": 1, "b": [2', {"a": 1, "b": [2]}),
        ("{a: 1}", {"arguments": "{a: 1}"}),
        ("[1]", {"arguments": "[1]"}),
    ],
)
def test_arguments_are_an_object_whatever_the_model_wrote(text: str, expected: Json) -> None:
    """A model's wrong JSON is the client's to see, and no error of the worker."""
    block = {"type": "tool_use", "id": "1", "name": "look", "input": {}}
    message = whole_message(
        [
            {"type": "message_start", "message": {"content": []}},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": text}},
        ]
    )
    assert message["content"][0]["input"] == expected


async def test_an_error_within_the_stream() -> None:
    """What fails behind the first event ends the stream as an error of Anthropic's form."""
    body = {**HI, "messages": [{"role": "user", "content": "endless"}], "stream": True}
    with fake_worker(held=True) as worker:
        worker.permit(2)
        stream = await worker.api.call("/v1/messages", body)
        assert isinstance(stream, EventStream)
        worker.runner.failures.extend([DecodeError("Broken.")] * 10)
        worker.let_go()
        events = told("".join([item async for item in stream]))

    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
