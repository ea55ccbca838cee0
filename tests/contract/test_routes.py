"""Every way in and every shape of answer, through the SDK: OpenAI's route, native shapes, /run, /runsync, /stream."""

import asyncio
from typing import Any

import pytest
from openai.types import Completion, CompletionUsage
from openai.types.chat import ChatCompletion

from tests.contract.stage import Stage, content, parse_events
from tests.runpod_emulator import Json

pytestmark = pytest.mark.asyncio(loop_scope="module")

HI = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"
GREEDY = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}


async def test_openai_chat(shared: Stage) -> None:
    """OpenAI's client sees nothing of jobs: an answer, and the same in pieces with its usage."""
    async with shared.openai() as client:
        ask = {"model": "model", "messages": HI, "temperature": 0, "max_tokens": 12}
        whole = await client.chat.completions.create(**ask)  # type: ignore[call-overload]
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(  # type: ignore[call-overload]
                **ask, stream=True, stream_options={"include_usage": True}
            )
        ]

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text
    assert text == whole.choices[0].message.content
    assert isinstance(chunks[-1].usage, CompletionUsage)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 12


async def test_anthropic_messages(shared: Stage) -> None:
    """Anthropic's client too: a message, the same as events, and the count of its prompt."""
    ask: Any = {"model": "model", "messages": HI, "max_tokens": 12, "extra_body": {"temperature": 0}}
    async with shared.anthropic() as client:
        whole = await client.messages.create(**ask)
        async with client.messages.stream(**ask) as stream:
            streamed = await stream.get_final_message()
        count = await client.messages.count_tokens(model="model", messages=HI)  # type: ignore[arg-type]  # plain dicts

    assert [block.to_dict() for block in streamed.content] == [block.to_dict() for block in whole.content]
    assert whole.stop_reason == streamed.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == streamed.usage.output_tokens == 12
    assert whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0) == count.input_tokens


async def test_openai_models(shared: Stage) -> None:
    """GET arrives as a job without a method."""
    async with shared.openai() as client:
        models = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("model")

    assert models == [one.id] == ["model"]


@pytest.mark.parametrize(
    "job_input",
    [
        {"messages": HI, **GREEDY},
        {"messages": HI, "sampling_params": GREEDY},
        {"route": CHAT, "body": {"messages": HI, **GREEDY}},
        {"route": CHAT, "method": "POST", "body": {"messages": HI, **GREEDY}},
        {"openai_route": CHAT, "openai_input": {"messages": HI, **GREEDY}},
    ],
    ids=["shorthand", "sampling_params", "route", "method", "openai_route"],
)
async def test_native_shapes_of_a_chat(shared: Stage, job_input: Json) -> None:
    """All of them are the same chat, and the job's output is one answer of OpenAI's."""
    job = await shared.runsync(job_input)

    [answer] = job["output"]
    assert job["status"] == "COMPLETED"
    assert ChatCompletion.model_validate(answer).usage is not None
    assert answer["usage"]["completion_tokens"] == 12


async def test_native_prompt(shared: Stage) -> None:
    """A prompt is a completion."""
    job = await shared.runsync({"prompt": "hello", **GREEDY})

    assert Completion.model_validate(job["output"][0]).choices[0].text


async def test_run_and_status(shared: Stage) -> None:
    """The job is told who has it and how long it took."""
    job_id = await shared.run({"prompt": "hello", **GREEDY})
    job = await shared.ends(job_id)

    assert job["status"] == "COMPLETED"
    assert job["workerId"] in shared.fleet.workers
    assert {"delayTime", "executionTime", "output"} <= job.keys()


async def test_run_and_stream(shared: Stage) -> None:
    """/stream gives the pieces once, and /status all of them when the job is done."""
    job_id = await shared.run({"prompt": "hello", "stream": True, **GREEDY})
    pieces = await shared.stream(job_id)

    job = await shared.status(job_id)
    assert job["output"] == pieces
    assert (
        content("".join(pieces))
        == (await shared.runsync({"prompt": "hello", **GREEDY}))["output"][0]["choices"][0]["text"]
    )
    assert await shared.call("GET", f"stream/{job_id}") == (200, {"status": "COMPLETED", "stream": []})


async def test_runsync_streams_too(shared: Stage) -> None:
    """A stream that is not read is the job's output."""
    job = await shared.runsync({"prompt": "hello", "stream": True, **GREEDY})

    events = parse_events("".join(job["output"]))
    assert events[-1]["choices"][0]["finish_reason"] == "length"


async def test_eight_jobs_at_once(shared: Stage) -> None:
    """One worker has all of them at the same time, and each gets the answer that it would get alone."""
    prompts = [f"hello {number}" for number in range(8)]
    alone = [await shared.runsync({"prompt": prompt, **GREEDY}) for prompt in prompts]
    first = len(shared.log.events)
    together = await asyncio.gather(
        *[shared.runsync({"prompt": prompt, **GREEDY, "max_tokens": 400}) for prompt in prompts]
    )

    running = most = 0
    for event in shared.log.events[first:]:
        running += {"taken": 1, "ended": -1}.get(event.name, 0)
        most = max(most, running)
    assert most == 8
    for short, long in zip(alone, together, strict=True):
        text = long["output"][0]["choices"][0]["text"]
        assert text.startswith(short["output"][0]["choices"][0]["text"].rstrip("\ufffd"))
    assert len({job["workerId"] for job in together}) == 1
