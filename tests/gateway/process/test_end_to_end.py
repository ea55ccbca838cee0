"""From a client through the gateway to workers on an emulated RunPod, and what goes wrong on the way.

Workers are processes of this repository's handler with a tiny model, a queue endpoint first, a load-balancing one then.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from tests.contract.stage import MANY, SETTINGS, content
from tests.gateway.gateway_process import rows
from tests.gateway.platform_stage import Platform, platform
from tests.runpod_emulator import Clock, Fault, Job, State
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
SPEED = 10.0  # the platform's seconds in one of ours
COLD_START = 20.0  # of the platform's seconds, until a worker's process starts
# In scaled time the platform must not take a process that starts for dead.
PATIENT = replace(SETTINGS, lost_job_after=None, ping_deadline=10_000, take_hold=20, stop_hold=20)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """A queue endpoint with one worker, for all stories that leave it as they found it."""
    async with platform(tmp_path_factory.mktemp("queue")) as here:
        await here.runpod.worker()
        yield here


@pytest_asyncio.fixture(loop_scope="module")
async def queue(shared: Platform) -> AsyncIterator[Platform]:
    """As new; and each story leaves a gateway and a worker behind that answer, with no job in the queue."""
    shared.other.reset()
    yield shared
    shared.runpod.emulator.faults.clear()
    await answers_again(shared)
    await shared.runpod.until(lambda: not shared.runpod.queue.in_progress, "all jobs are over")


async def answers_again(here: Platform) -> None:
    """A target that failed too often is left alone for a while; then it is asked again."""
    async with asyncio.timeout(30):
        while (await here.ask())[0] != 200:  # noqa: ASYNC110 - the gateway's own clock decides
            await asyncio.sleep(0.2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def balanced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """A load-balancing endpoint with two workers."""
    folder = tmp_path_factory.mktemp("balanced")
    async with platform(folder, kind="load_balancing", min_workers=2, max_workers=2) as here:
        await here.runpod.until(lambda: len(here.runpod.fleet.of_state(State.READY)) == 2, "both workers are ready")
        yield here


def events_in(body: bytes) -> list[dict[str, Any]]:
    """What is told in a stream that ends as it must, comments left out."""
    parts = [part for part in body.decode().split("\n\n") if part and not part.startswith(":")]
    assert parts[-1] == "data: [DONE]", parts[-2:]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]


def without_comments(body: bytes) -> str:
    return "".join(f"{part}\n\n" for part in body.decode().split("\n\n") if part and not part.startswith(":"))


def error_in(body: bytes) -> dict[str, Any]:
    """Of a stream that ends with one."""
    error: dict[str, Any] = events_in(body)[-1]["error"]
    return error


async def job_of(here: Platform) -> Job:
    """The only one that runs or waits."""
    jobs = here.runpod.queue.jobs
    found = await here.runpod.until(lambda: [job for job in jobs.values() if not job.status.is_final], "there is a job")
    return found[0]


# A queue endpoint


async def test_openai_client(queue: Platform) -> None:
    """Streams, whole answers, and the errors of the worker with their own status."""
    async with queue.openai() as client:
        whole = await client.chat.completions.create(model="llama", messages=HI, temperature=0, max_tokens=8)
        stream = await client.chat.completions.create(
            model="llama", messages=HI, temperature=0, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        completion = await client.completions.create(model="llama", prompt="hello", temperature=0, max_tokens=8)
        with pytest.raises(openai.BadRequestError) as too_long:
            await client.completions.create(model="llama", prompt=5000 * "hello ", max_tokens=5)
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="llama", messages=HI, temperature=5)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 8
    assert completion.choices[0].finish_reason == "length"
    assert too_long.value.code == "context_length_exceeded"


async def test_other_apis(queue: Platform) -> None:
    """Messages and Responses of a RunPod worker need no setting: whole, as a stream, and their counts of tokens."""

    async def post(path: str, **fields: Any) -> str:
        body = {"model": "llama", "temperature": 0, **fields}
        async with queue.session.post(f"{queue.gateway.api}/{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.text()

    message = {"messages": HI, "max_tokens": 5}
    response = {"input": "hello", "max_output_tokens": 5}
    told = json.loads(await post("messages", **message))
    made = json.loads(await post("responses", **response))

    assert (told["type"], told["stop_reason"], told["usage"]["output_tokens"]) == ("message", "max_tokens", 5)
    assert (made["object"], made["status"], made["usage"]["output_tokens"]) == ("response", "incomplete", 5)
    assert "event: message_stop" in await post("messages", **message, stream=True)
    assert "event: response.incomplete" in await post("responses", **response, stream=True)
    counts = [await post("messages/count_tokens", messages=HI), await post("responses/input_tokens", input="hello")]
    num_read = told["usage"]["input_tokens"] + told["usage"]["cache_read_input_tokens"]
    assert [json.loads(count)["input_tokens"] for count in counts] == [num_read, num_read]


async def test_record(queue: Platform) -> None:
    """What the platform says of a job is in its record: how long it waited, and how long a GPU was paid for."""
    _, headers, _ = await queue.ask(stream=True)
    statement = (
        "SELECT status, num_completion_tokens, execution_seconds, queue_seconds, target FROM gateway_usage"
        f" WHERE request_id = '{headers['x-request-id']}'"
    )
    ((status, num_tokens, execution, waited, target),) = await eventually(
        lambda: rows(queue.gateway.database, statement)
    )

    assert (status, num_tokens) == (200, 5)
    assert execution > 0
    assert waited >= 0
    assert target == headers["x-gateway-target"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_client_that_leaves(queue: Platform, stream: bool) -> None:
    """Its job is cancelled, and the worker's slot is free within two steps of the engine."""
    log = queue.runpod.log
    start = log.events[-1]
    async with queue.openai() as client:
        asking = asyncio.create_task(
            client.chat.completions.create(model="llama", messages=HI, max_tokens=MANY, stream=stream)
        )
        job = await job_of(queue)
        await queue.runpod.prints("odd: step", after=start)
        if stream:
            await anext(aiter(await asking))  # type: ignore[arg-type]  # a stream it is
        asking.cancel()
    stopping = await queue.runpod.prints(f'"{job.id}", "message": "Stopping job."')
    freed = await queue.runpod.prints("odd: slot freed", after=stopping)

    assert job.status == "CANCELLED"
    between = log.events[stopping.number : freed.number]
    assert sum(event.detail == "odd: step" for event in between) <= 2


async def test_client_that_leaves_before_its_job_begins(queue: Platform) -> None:
    """A job that waits is taken out of the queue; no worker ever sees it."""
    gate = asyncio.Event()
    runpod = queue.runpod
    for call in ("job-take", "job-take-batch"):  # the SDK uses one or the other
        runpod.emulator.faults.add(Fault(call, gate=gate))
    num_held = len(runpod.log.find("held"))
    await queue.ask()  # by the poll that was open
    await runpod.happens("held", times=num_held + 1)
    await runpod.until(lambda: not runpod.queue.in_progress, "that one is over")
    asking = asyncio.create_task(queue.ask(stream=True))
    job = await job_of(queue)
    asking.cancel()
    await runpod.until(lambda: job.status.is_final, "it is cancelled")
    gate.set()

    assert job.status == "CANCELLED"
    assert not runpod.log.find("taken", job_id=job.id)


async def test_storm_of_429(queue: Platform) -> None:
    """Each call of the platform is refused again and again; the answer is whole all the same."""
    for call, times in (("run", 2), ("stream", 4), ("status", 2)):
        queue.runpod.emulator.faults.add(Fault(call, status=429, num_times=times))
    status, _, body = await queue.ask(stream=True, max_tokens=20)
    plain = await queue.ask(max_tokens=20)

    assert status == plain[0] == 200
    assert content(without_comments(body)) == json.loads(plain[2])["choices"][0]["message"]["content"]


async def test_platform_that_fails_now_and_then(queue: Platform) -> None:
    """Answers of polls are lost on their way: no text is missing, none comes twice."""
    expected = json.loads((await queue.ask(max_tokens=40))[2])["choices"][0]["message"]["content"]
    queue.runpod.emulator.faults.add(Fault("stream", status=502, when="before", probability=0.4))
    for _ in range(3):
        status, _, body = await queue.ask(stream=True, max_tokens=40)
        assert (status, content(without_comments(body))) == (200, expected)


async def test_platform_that_always_says_429(queue: Platform) -> None:
    """When our own tries are spent the client is told when to come again, and not to try at once by itself."""
    queue.runpod.emulator.faults.add(Fault("run", status=429))
    status, headers, body = await queue.ask()
    other = await queue.ask(model="backed")

    assert status in (429, 503)
    assert headers["x-should-retry"] == "false"
    assert json.loads(body)["error"]["message"]
    assert (other[0], other[1]["x-gateway-target"]) == (200, "other")


async def test_endpoint_that_is_gone(queue: Platform) -> None:
    """Another target answers; where none can, it is an error with a reason and not a hang."""
    backed = await queue.ask(model="gone", stream=True)
    lost = await queue.ask(model="lost")

    assert (backed[0], content(without_comments(backed[2]))) == (200, "Paris.")
    assert 400 <= lost[0] < 600
    assert json.loads(lost[2])["error"]["message"].isprintable()


async def test_job_that_expires(queue: Platform) -> None:
    """The platform forgets it while it answers. What came is there, then an error says what happened."""
    async with queue.post(stream=True, max_tokens=MANY) as answer:
        got = await answer.content.readuntil(b"\n\n")
        job = await job_of(queue)
        await queue.runpod.happens("chunk", job_id=job.id, times=3)
        job.created -= job.policy.ttl
        got += await answer.read()

    assert answer.status == 200
    assert error_in(got)["message"]
    assert len(events_in(got)) > 2


async def test_job_that_takes_too_long(queue: Platform) -> None:
    """RunPod stops it: the same, in a whole answer with a status that says so."""
    asking = asyncio.create_task(queue.ask(max_tokens=200))
    job = await job_of(queue)
    await queue.runpod.until(lambda: job.started is not None, "it runs")
    assert job.started is not None
    job.started -= job.policy.execution_timeout
    status, _, body = await asking

    assert (status, json.loads(body)["error"]["code"]) == (504, "target_timeout")


async def test_worker_killed_in_mid_stream(tmp_path: Path) -> None:
    """The platform gives the job to another worker, which begins anew: the client gets an error, no text twice."""
    async with platform(tmp_path) as here:
        expected = json.loads((await here.ask(max_tokens=100))[2])["choices"][0]["message"]["content"]
        async with here.post(stream=True, max_tokens=100) as answer:
            got = await answer.content.readuntil(b"\n\n")
            job = await job_of(here)
            await here.runpod.happens("chunk", job_id=job.id, times=3)
            here.runpod.fleet.kill(here.runpod.fleet.workers[job.worker_id])
            got += await answer.read()
        events = events_in(got)
        texts = [event["choices"][0]["delta"].get("content") or "" for event in events if event.get("choices")]
        assert error_in(got)["code"]
        assert expected.startswith("".join(texts))
        assert texts


async def test_worker_killed_before_its_answer(tmp_path: Path) -> None:
    """The job goes to another worker, and the client does not notice."""
    async with platform(tmp_path) as here:
        asking = asyncio.create_task(here.ask(max_tokens=100))
        job = await job_of(here)
        await here.runpod.prints("odd: step", after=await here.runpod.happens("taken", job_id=job.id))
        here.runpod.fleet.kill(here.runpod.fleet.workers[job.worker_id])
        status, _, _ = await asking

    assert status == 200
    assert job.num_retries


# Cold starts


async def test_cold_start(tmp_path: Path) -> None:
    """20 seconds without a worker: the stream is open and kept alive long before, then the answer comes whole."""
    async with platform(tmp_path, settings=PATIENT, clock=Clock(SPEED), cold_start=COLD_START) as here:
        async with here.post(stream=True) as answer:
            comments = [await answer.content.readuntil(b"\n\n") for _ in range(3)]
            assert not here.runpod.fleet.of_state(State.READY)
            body = await answer.read()
        statement = "SELECT is_cold, status, outcome FROM gateway_usage"
        records = await eventually(lambda: rows(here.gateway.database, statement))
        warm = await here.ask(stream=True)
        metrics = await metrics_of(here)

    assert answer.status == 200
    assert comments == 3 * [b": keep-alive\n\n"]
    assert len(content(without_comments(body))) > 0
    assert content(without_comments(body)) == content(without_comments(warm[2]))
    assert records == [(1, 200, "ok")]
    assert any("cold" in line and line.endswith(" 1.0") for line in metrics)
    assert "waiting for" in here.gateway.log  # with what the platform says of its workers


async def test_stand_in_for_a_cold_start(tmp_path: Path) -> None:
    """Another model answers before there is any worker, which starts all the same and then answers itself."""
    async with platform(tmp_path, settings=PATIENT, clock=Clock(SPEED), cold_start=COLD_START) as here:
        first = await here.ask(model="quick", stream=True)
        second = await here.ask(model="quick")
        assert not here.runpod.fleet.of_state(State.READY)
        await here.runpod.happens("ended")
        await eventually(lambda: "worker is ready" in here.gateway.log)
        third = await here.ask(model="quick")

    assert content(without_comments(first[2])) == "Paris."
    assert second[1]["x-gateway-target"] == "other"
    assert third[1]["x-gateway-target"] == "runpod_queue:ep"
    assert len(here.runpod.log.find("submitted")) == 2  # the one that warmed it up, and the third


async def metrics_of(here: Platform) -> list[str]:
    async with here.session.get(f"{here.gateway.url}/metrics") as answer:
        return (await answer.text()).splitlines()


# A load-balancing endpoint


async def test_balanced(balanced: Platform) -> None:
    """Streams, whole answers, errors of the worker."""
    whole = await balanced.ask()
    stream = await balanced.ask(stream=True)
    wrong = await balanced.ask(temperature=5)

    assert (whole[0], stream[0], wrong[0]) == (200, 200, 400)
    assert content(stream[2].decode()) == json.loads(whole[2])["choices"][0]["message"]["content"]


async def test_conversations_stay_with_their_worker(balanced: Platform) -> None:
    """Where the model's memory of them is: all turns of one go to the worker of its first."""
    log = balanced.runpod.log
    for name in range(6):
        messages = [{"role": "user", "content": f"conversation {name}"}]
        workers = []
        for _ in range(3):
            start = len(log.events)
            await balanced.ask(messages=messages, max_tokens=2)
            forwarded = [event for event in log.events[start:] if event.name == "forwarded" and "chat" in event.detail]
            workers += [event.worker_id for event in forwarded]
            messages += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "go on"}]
        assert len(workers) == 3
        assert len(set(workers)) == 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_balanced_client_that_leaves(balanced: Platform, stream: bool) -> None:
    """The worker's slot is free, though nothing but a connection tells it."""
    last = balanced.runpod.log.events[-1]
    async with balanced.openai() as client:
        asking = asyncio.create_task(
            client.chat.completions.create(model="llama", messages=HI, max_tokens=MANY, stream=stream)
        )
        await balanced.runpod.prints("odd: step", after=last)
        if stream:
            await anext(aiter(await asking))  # type: ignore[arg-type]  # a stream it is
        asking.cancel()

    await balanced.runpod.prints("odd: slot freed", after=last)


async def test_balanced_worker_killed_in_mid_stream(balanced: Platform) -> None:
    """What came is there, then an error; the next request goes to the other worker."""
    runpod = balanced.runpod
    start = len(runpod.log.events)
    async with balanced.post(stream=True, max_tokens=1000) as answer:
        got = await answer.content.readuntil(b"\n\n")
        worker_id = next(event.worker_id for event in runpod.log.events[start:] if event.name == "forwarded")
        runpod.fleet.kill(runpod.fleet.workers[worker_id])
        got += await answer.read()
    after = await balanced.ask()

    assert error_in(got)["code"] == "target_unreachable"
    assert after[0] == 200


async def test_balancer_in_trouble(balanced: Platform) -> None:
    """Its own errors are no answers: they are tried again, or another target is."""
    faults = balanced.runpod.emulator.faults
    for fault in (Fault("forward", status=502, num_times=1), Fault("forward", drops=True, num_times=1)):
        faults.add(fault)
        assert (await balanced.ask())[0] == 200
    for status in (502, 503, 504, 429):
        faults.add(Fault("forward", status=status, num_times=3))
        backed = await balanced.ask(model="backed", stream=True)
        assert (backed[0], content(without_comments(backed[2]))) == (200, "Paris.")
        faults.clear()

    assert (await balanced.ask(model="gone"))[0] == 200


async def test_balanced_cold_start(tmp_path: Path) -> None:
    """No worker: the balancer holds the request, the gateway keeps its stream alive."""
    async with (
        platform(tmp_path, kind="load_balancing", settings=PATIENT, clock=Clock(SPEED), cold_start=COLD_START) as here,
        here.post(stream=True) as answer,
    ):
        comments = [await answer.content.readuntil(b"\n\n") for _ in range(3)]
        assert not here.runpod.fleet.of_state(State.READY)
        body = await answer.read()

    assert comments == 3 * [b": keep-alive\n\n"]
    assert content(without_comments(body))
