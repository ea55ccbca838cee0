"""OpenAI's Responses through the API and OpenAI's own client, on a fake model."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from handler.api.stream import EventStream
from handler.errors import DecodeError, InvalidRequestError
from handler.job import make_handler
from tests.api.test_tools import ARGUMENTS, CALL, OTHER, SPECIALS, TEMPLATE, WEATHER, worker_saying
from tests.fake_worker import FakeWorker, Json, fake_worker
from tests.http.test_edge import edge_of

HI: Any = {"model": "llama", "input": "Hi"}
TOOLS: Any = [{"type": "function", "strict": False, **WEATHER}]
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
ANSWERS = (
    "Hello!",
    CALL,
    f"Let me see.\n{CALL}\n{OTHER}",
    "<think>\nHm.\n</think>\n\nYes.",
    f"<think>\nHm.\n</think>\n{CALL}",
    "",
)


@asynccontextmanager
async def client_of(worker: FakeWorker) -> AsyncIterator[openai.AsyncOpenAI]:
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=edge_of(worker).app))
    async with openai.AsyncOpenAI(
        api_key="none", base_url="http://localhost/v1", http_client=http, max_retries=0
    ) as client:
        yield client


async def events_of(worker: FakeWorker, body: Json) -> list[Json]:
    stream = await worker.api.call("/v1/responses", {**body, "stream": True})
    assert isinstance(stream, EventStream)
    return told("".join([item async for item in stream]))


def told(text: str) -> list[Json]:
    """The events of a stream, each under its name and with the next number; all are as OpenAI's types have them."""
    events = []
    for number, event in enumerate(text.removesuffix("\n\n").split("\n\n")):
        name, data = event.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        assert events[-1]["sequence_number"] == number
        EVENT.validate_python(events[-1])
    return events


def without_ids(response: Json) -> list[Json]:
    return [
        {name: value for name, value in item.items() if name not in ("id", "call_id")} for item in response["output"]
    ]


async def test_whole() -> None:
    """A response has its items, what it repeats of the request, and what it cost; it says that nothing is stored."""
    with fake_worker() as worker:
        answer = await worker.api.call(
            "/v1/responses", {**HI, "store": True, "metadata": {"a": "b"}, "temperature": 0.5}
        )

    assert isinstance(answer, dict)
    response = Response.model_validate(answer)
    assert response.output_text == "Hello!"
    assert (response.status, response.metadata, response.temperature) == ("completed", {"a": "b"}, 0.5)
    assert (response.tools, response.tool_choice, response.parallel_tool_calls) == ([], "auto", True)
    assert answer["store"] is False
    assert answer["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    }


@pytest.mark.parametrize("answer", ANSWERS)
async def test_stream_equals_whole(answer: str) -> None:
    """What the events tell piece by piece is what they tell at the end, and what a whole answer is."""
    with worker_saying(answer) as worker:
        whole = await worker.api.call("/v1/responses", {**HI, "tools": TOOLS})
        events = await events_of(worker, {**HI, "tools": TOOLS})

    assert isinstance(whole, dict)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    final = events[-1]["response"]
    assert without_ids(final) == without_ids(whole)
    pieces: dict[tuple[int, str], str] = {}
    done: list[Json] = []
    open_index = None
    for event in events:
        match event["type"]:
            case "response.output_item.added":
                assert open_index is None
                open_index = event["output_index"]
                assert not event["item"].get("content")
                assert not event["item"].get("arguments")
            case "response.output_item.done":
                assert open_index == event["output_index"]
                open_index = None
                done.append(event["item"])
            case (
                "response.output_text.delta"
                | "response.reasoning_text.delta"
                | "response.function_call_arguments.delta"
            ):
                assert event["output_index"] == open_index
                key = (event["output_index"], event["type"].removesuffix(".delta"))
                pieces[key] = pieces.get(key, "") + event["delta"]
            case "response.output_text.done" | "response.reasoning_text.done":
                assert pieces[event["output_index"], event["type"].removesuffix(".done")] == event["text"]
            case "response.function_call_arguments.done":
                assert pieces[event["output_index"], event["type"].removesuffix(".done")] == event["arguments"]
    assert done == final["output"]


async def test_the_clients_helpers() -> None:
    """OpenAI's client builds the same response of the stream, calls included."""
    with worker_saying(f"<think>\nHm.\n</think>\nLet me see.\n{CALL}\n{OTHER}") as worker:
        async with client_of(worker) as client:
            whole = await client.responses.create(**HI, tools=TOOLS)
            async with client.responses.stream(**HI, tools=TOOLS) as stream:
                async for _ in stream:
                    pass
                streamed = await stream.get_final_response()

    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call", "function_call"]
    assert [item.type for item in streamed.output] == [item.type for item in whole.output]
    assert streamed.output_text == whole.output_text == "Let me see."
    calls = [item for item in whole.output if item.type == "function_call"]
    assert (calls[0].name, calls[0].arguments) == ("weather", ARGUMENTS)
    assert calls[0].call_id != calls[1].call_id
    assert whole.usage is not None
    assert whole.usage.output_tokens_details.reasoning_tokens > 0


async def test_reasoning_for_clients_that_store_it() -> None:
    """Asked for encrypted reasoning they get it as it is, and may send it back in place of its text."""
    with worker_saying("<think>\nHm.\n</think>\n\nYes.") as worker:
        include = ["reasoning.encrypted_content"]
        answer = await worker.api.call("/v1/responses", {**HI, "tools": TOOLS, "include": include})
        assert isinstance(answer, dict)
        thought = {name: value for name, value in answer["output"][0].items() if name != "content"}
        again = await worker.api.call(
            "/v1/responses/input_tokens", {**HI, "input": [*_user("Hi"), thought, *_user("?")]}
        )

    assert thought["encrypted_content"] == "plain:Hm."
    assert again["object"] == "response.input_tokens"  # type: ignore[index]  # no stream


def _user(text: str) -> list[Json]:
    return [{"role": "user", "content": text}]


async def test_an_answer_that_is_cut() -> None:
    """It is incomplete, and so is the item that was open; a stream ends in that event."""
    with worker_saying(CALL) as worker:
        answer = await worker.api.call("/v1/responses", {**HI, "tools": TOOLS, "max_output_tokens": 50})
        events = await events_of(worker, {**HI, "tools": TOOLS, "max_output_tokens": 50})

    assert isinstance(answer, dict)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in answer["output"]] == ["incomplete"]
    assert events[-1]["type"] == "response.incomplete"
    assert without_ids(events[-1]["response"]) == without_ids(answer)


async def test_logprobs() -> None:
    """Each token's stands with the text that it is in: in the deltas, at the end, and in the part."""
    body = {**HI, "top_logprobs": 1, "include": ["message.output_text.logprobs"]}
    with fake_worker() as worker:
        whole = await worker.api.call("/v1/responses", body)
        events = await events_of(worker, body)

    assert isinstance(whole, dict)
    entries = whole["output"][0]["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in entries) == "Hello!"
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    [done] = [event for event in events if event["type"] == "response.output_text.done"]
    assert [entry for event in deltas for entry in event["logprobs"]] == done["logprobs"] == entries


async def test_count() -> None:
    """The prompt is counted, and nothing is generated."""
    with fake_worker() as worker:
        async with client_of(worker) as client:
            count = await client.responses.input_tokens.count(model="llama", input="Hi")
    assert count.input_tokens == 3


async def test_errors_name_the_field_that_was_sent() -> None:
    """Also where the chat's model finds them."""
    with fake_worker() as worker:
        async with client_of(worker) as client:
            with pytest.raises(openai.BadRequestError) as low:
                await client.responses.create(**HI, max_output_tokens=0)
            with pytest.raises(openai.BadRequestError) as long:
                await client.responses.create(model="llama", input=2000 * "x")
            with pytest.raises(openai.BadRequestError) as stored:
                await client.responses.create(**HI, previous_response_id="resp_1")
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve("resp_1")

    assert low.value.param == "max_output_tokens"
    assert "'max_output_tokens'" in low.value.message
    assert (long.value.param, long.value.code) == ("input", "context_length_exceeded")
    assert stored.value.param == "previous_response_id"


async def test_an_error_within_the_stream() -> None:
    """What fails behind the first event ends the stream as a failed response."""
    with fake_worker(held=True) as worker:
        worker.permit(2)
        stream = await worker.api.call("/v1/responses", {**HI, "input": "endless", "stream": True})
        assert isinstance(stream, EventStream)
        worker.runner.failures.extend([DecodeError("Broken.")] * 10)
        worker.let_go()
        events = told("".join([item async for item in stream]))

    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["error"]["message"]


async def test_as_a_job() -> None:
    """RunPod's route carries the same: a response, its events, and errors with their status."""
    with fake_worker() as worker:
        handle = make_handler(worker.api)

        async def outputs(body: Json) -> list[Any]:
            job = {"id": "1", "input": {"openai_route": "/v1/responses", "openai_input": body}}
            return [output async for output in handle(job)]

        (whole,) = await outputs(HI)
        events = told("".join(await outputs({**HI, "stream": True})))
        (failed,) = await outputs({**HI, "input": []})

    assert without_ids(whole) == without_ids(events[-1]["response"])
    error = json.loads(failed["error"])
    assert (error["status"], error["error"]["param"]) == (400, "input")


async def test_thinking_is_switched_off() -> None:
    """`reasoning.effort` none reaches the template."""
    template = TEMPLATE.replace("thinks", "enable_thinking is not defined or enable_thinking")
    scripts = {"Hi><think>\n": "Hm.\n</think>\n\nYes.", "Hi>": "Hello!"}
    with fake_worker(scripts, template=template, specials=SPECIALS) as worker:
        thinking = await worker.api.call("/v1/responses", HI)
        plain = await worker.api.call("/v1/responses", {**HI, "reasoning": {"effort": "none"}})

    assert [item["type"] for item in thinking["output"]] == ["reasoning", "message"]  # type: ignore[index]
    assert [item["type"] for item in plain["output"]] == ["message"]  # type: ignore[index]


@pytest.mark.parametrize("field", ["metadata", "user", "tools"])
async def test_text_that_cannot_be_encoded_is_refused_wherever_it_stands(field: str) -> None:
    """Half a surrogate pair in a field that no chat has, and that the response would repeat."""
    cut = {"metadata": {"note": "\ud83d"}, "user": "\ud83d", "tools": [{"type": "web_search", "note": "\ud83d"}]}
    with fake_worker() as worker, pytest.raises(InvalidRequestError, match="not Unicode"):
        await worker.api.call("/v1/responses", {**HI, field: cut[field]})
