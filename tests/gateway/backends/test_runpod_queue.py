"""Queue endpoints of RunPod: a call becomes a job, its output the answer, byte for byte; and no job is left running."""

import asyncio
import json
from typing import Any

import pytest

from local_gateway.backends.base import Call
from local_gateway.backends.http import HttpClient
from local_gateway.backends.runpod.client import RunpodClient
from local_gateway.backends.runpod.openai_job import MAX_PAYLOAD_BYTES
from local_gateway.backends.runpod.queue import RunpodQueueBackend
from local_gateway.backends.runpod.rerun_detector import RerunDetector
from local_gateway.config.settings import RunpodQueueTarget
from local_gateway.errors import (
    AnswerBrokenError,
    InvalidRequestError,
    MethodNotAllowedError,
    PayloadTooLargeError,
    RequestError,
    RouteNotFoundError,
    TargetConfigError,
    TargetError,
    TargetGaveUpError,
    TargetRefusedError,
    TargetUnreachableError,
    UnsupportedMediaError,
    WorkerFailedError,
)
from local_gateway.wire.error_body import explain
from local_gateway.wire.sse import events_in
from tests.gateway.played_endpoint import CHAT, STREAM, no_pause, piece_of, played, read
from tests.gateway.targets.on_socket import Exchange, reply, target_and_client
from tests.runpod_emulator import Clock, Fault, Settings

ERROR = {"message": "No such role.", "type": "invalid_request_error", "param": "messages", "code": None}
DONE = "data: [DONE]\n\n"


def event(text: str, run: str = "chatcmpl-1") -> str:
    chunk = {"id": run, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def events(*texts: str, run: str = "chatcmpl-1") -> list[str]:
    return [event(text, run) for text in texts]


# From a call to a job


async def test_a_job() -> None:
    """The body is in it as it came, and how long it may run and wait."""
    body = b'{"model":"llama", "n":1e2, "x":"\\u00e9\xc3\xa9"}'
    async with played(execution_timeout=60, ttl=600) as p:
        opening = p.open(Call(path="/chat/completions", body=body))
        job = await p.take()
        p.put(job, {"choices": []})
        await read(await opening)

    assert job.input == {"openai_route": "/v1/chat/completions", "openai_input": json.loads(body)}
    assert (job.policy.execution_timeout, job.policy.ttl) == (60, 600)


async def test_a_get() -> None:
    """Jobs are not told the method: nothing in it means GET."""
    async with played() as p:
        job, upstream = await p.begin({"object": "list", "data": []}, call=Call(path="/models", method="GET"))
        body = await read(upstream)

    assert job.input == {"openai_route": "/v1/models", "openai_input": {}}
    assert json.loads(body) == {"object": "list", "data": []}


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (Call(path="/chat/completions", body=b'"' + MAX_PAYLOAD_BYTES * b"x" + b'"'), PayloadTooLargeError),
        (Call(path="/chat/completions", method="DELETE"), MethodNotAllowedError),
        (Call(path="/openai/deployments/ok/chat/completions", body=b"{}"), RouteNotFoundError),  # gateway.md A11
        (Call(path="/files", body=b"{}"), RouteNotFoundError),
        (Call(path="/v1/chat/completions", body=b"{}"), RouteNotFoundError),
        (
            Call(path="/audio/transcriptions", body=b"--x", content_type="multipart/form-data; boundary=x"),
            UnsupportedMediaError,
        ),
        (Call(path="/chat/completions", body=b'{}}, "policy": {}, "x": {"y": 1'), InvalidRequestError),
    ],
)
async def test_what_a_job_cannot_carry(call: Call, kind: type[RequestError]) -> None:
    """It is refused here; RunPod is not asked."""
    async with played() as p:
        with pytest.raises(kind):
            await p.backend.open(call)

        assert not p.endpoint.queue.jobs


# From a job's output to an answer


async def test_a_stream() -> None:
    """Its status is known with the first output, and each piece comes when the worker puts it out."""
    async with played() as p:
        job, upstream = await p.begin(event("a"))
        first = await piece_of(upstream)
        p.put(job, *events("é", "😀"))
        second = await piece_of(upstream)
        p.put(job, DONE)
        p.done(job)
        rest = await read(upstream)

    assert (upstream.status, upstream.headers) == (200, {"content-type": "text/event-stream; charset=utf-8"})
    assert b"".join((first, second, rest)).decode() == "".join([*events("a", "é", "😀"), DONE])


async def test_pieces_that_end_within_an_event() -> None:
    """A worker may cut its text anywhere."""
    text = "".join([*events("a", "b"), DONE])
    async with played() as p:
        job, upstream = await p.begin(text[:50])
        p.put(job, *(text[start : start + 7] for start in range(50, len(text), 7)))
        p.done(job)
        body = await read(upstream)

    assert body.decode() == text


async def test_the_end_of_the_text_is_the_end() -> None:
    """No request waits until RunPod knows that the job is over; and it is not cancelled then."""
    async with played() as p:
        job, upstream = await p.begin(event("a"), DONE)
        body = await read(upstream)
        assert not job.status.is_final
        p.done(job)
        facts = await upstream.execution_stats()

    assert body.decode() == event("a") + DONE
    assert job.status == "COMPLETED"
    assert facts.execution_seconds is not None


async def test_what_it_took() -> None:
    """RunPod tells in the end how long a job waited and ran."""
    clock = Clock()
    async with played(clock=clock) as p:
        opening = p.open(CHAT)
        await p.submitted()
        clock.advance(20)
        job = await p.take()
        clock.advance(3)
        p.put(job, {"choices": []})
        p.done(job, [{"choices": []}])
        upstream = await opening
        await read(upstream)
        facts = await upstream.execution_stats()

    assert (round(facts.queue_seconds or 0), round(facts.execution_seconds or 0)) == (20, 3)


@pytest.mark.parametrize("outputs", [[{"id": "x"}], ['{"id": "x"}'], ['{"id"', ': "x"}']])
async def test_a_whole_answer(outputs: list[object]) -> None:
    """An object, or its text."""
    async with played() as p:
        opening = p.open(CHAT)
        job = await p.take()
        p.put(job, *outputs)
        p.done(job, outputs)
        upstream = await opening
        body = await read(upstream)

    assert (upstream.status, upstream.headers, json.loads(body)) == (
        200, {"content-type": "application/json"}, {"id": "x"}
    )  # fmt: skip


@pytest.mark.parametrize("output", [{"id": "x"}, [{"id": "x"}], '{"id": "x"}'])
async def test_an_answer_that_is_not_streamed(output: object) -> None:
    """Workers that are no generators put out nothing before the end."""
    async with played() as p:
        opening = p.open(CHAT)
        p.done(await p.take(), output)
        body = await read(await opening)

    assert json.loads(body) == {"id": "x"}


# Errors


@pytest.mark.parametrize("call", [CHAT, STREAM])
async def test_an_error_of_our_worker(call: Call) -> None:
    """It has a status, which a job has not, and reaches the client as if it had come over HTTP."""
    async with played() as p:
        opening = p.open(call)
        job = await p.take()
        if call.is_stream:
            p.put(job, f"data: {json.dumps({'error': ERROR, 'status': 400})}\n\n{DONE}")
            p.done(job)
        else:
            p.fail(job, json.dumps({"error": ERROR, "status": 400}))
        upstream = await opening
        body = await read(upstream)

    assert (upstream.status, upstream.headers["content-type"]) == (400, "application/json")
    assert json.loads(body) == {"error": ERROR}


async def test_an_error_after_the_beginning() -> None:
    """Then it is a part of the stream."""
    late = f"data: {json.dumps({'error': ERROR, 'status': 500})}\n\n{DONE}"
    async with played() as p:
        job, upstream = await p.begin(event("a"))
        p.put(job, late)
        body = await read(upstream)

    assert body.decode() == event("a") + late


TRACEBACK = 'Traceback (most recent call last):\n  File "/secret/handler.py", line 1\nValueError: no\nsuch thing'


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("CUDA out of memory\nand more", "The worker failed: CUDA out of memory"),
        (TRACEBACK.replace("\nsuch", " such"), "The worker failed: ValueError: no such thing"),
        (json.dumps({"error_type": "<class 'ValueError'>", "error_message": "no", "error_traceback": TRACEBACK}),
         "The worker failed: no"),
        ({"a": 1}, "The worker failed: it does not say why."),
        (1000 * "x", "The worker failed: " + 300 * "x"),
    ],
)  # fmt: skip
async def test_an_error_of_another_worker(error: object, message: str) -> None:
    """One line is told of it, never a traceback."""
    async with played() as p:
        opening = p.open()
        p.fail(await p.take(), error)
        with pytest.raises(TargetError) as caught:
            await opening

    assert (caught.value.status, str(caught.value)) == (502, message)


async def test_a_job_that_fails_after_it_began() -> None:
    """What came is given out first."""
    async with played() as p:
        job, upstream = await p.begin(event("a"))
        p.put(job, event("b"))
        p.fail(job, "out of memory")
        pieces = [await piece_of(upstream), await piece_of(upstream)]
        with pytest.raises(TargetError, match="out of memory"):
            await piece_of(upstream)
        await upstream.aclose()

    assert b"".join(pieces).decode() == "".join(events("a", "b"))


async def test_old_errors() -> None:
    """Some workers complete a job with an error in it."""
    async with played() as p:
        _, upstream = await p.begin({"object": "error", "message": "No.", "code": 404}, call=CHAT)
        await read(upstream)

    assert upstream.status == 404


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("times out", TargetGaveUpError, "RunPod stopped the job"),
        ("is cancelled", TargetError, "was cancelled at RunPod"),
        ("is forgotten", TargetError, "not the job any more"),
        ("is empty", WorkerFailedError, "there is no answer"),
        ("is nonsense", AnswerBrokenError, "neither JSON nor"),
    ],
)
async def test_jobs_without_an_answer(what: str, kind: type[TargetError], message: str) -> None:
    """Each way to end has its error."""
    clock = Clock()
    async with played(clock=clock, execution_timeout=60, ttl=600) as p:
        opening = p.open()
        job = await p.take()
        match what:
            case "times out":
                p.endpoint.queue.listed(job.worker_id, [job.id], p.endpoint.now + 100)
                clock.advance(61)
            case "is cancelled":
                p.endpoint.queue.cancel(job, p.endpoint.now)
            case "is forgotten":
                del p.endpoint.queue.jobs[job.id]
                p.endpoint.queue.cancel(job, p.endpoint.now)
            case "is empty":
                p.done(job)
            case "is nonsense":
                p.done(job, ["nonsense"])
        with pytest.raises(kind, match=message) as caught:
            await opening

    assert type(caught.value) is kind or what == "is forgotten"


async def test_an_endpoint_that_is_gone() -> None:
    """It is not asked again."""
    async with played(endpoint_id="other") as p:
        with pytest.raises(TargetConfigError, match="does not know the endpoint"):
            await p.backend.open(CHAT)
        health = await p.backend.health()

    assert (health.is_ok, health.detail) == (False, "RunPod does not know the endpoint.")


async def test_a_wrong_key() -> None:
    """The same."""
    async with played(api_key="wrong") as p:
        with pytest.raises(TargetConfigError, match="does not accept our key"):
            await p.backend.open(CHAT)
        health = await p.backend.health()

    assert not health.is_ok


async def test_too_many_jobs() -> None:
    """RunPod says when to come back."""
    async with target_and_client(always_refusing) as (target, http):
        with pytest.raises(TargetRefusedError) as caught:
            await backend_of(target.url, http).open(CHAT)

        assert (caught.value.status, caught.value.retry_after) == (429, 7)
        assert len(target.exchanges) == 1


async def always_refusing(exchange: Exchange) -> None:
    await exchange.send(reply(429, b"", retry_after="7"))


def backend_of(url: str, http: HttpClient, **client: Any) -> RunpodQueueBackend:
    settings = RunpodQueueTarget(type="runpod_queue", endpoint_id="ep", api_key="key", base_url=url)
    return RunpodQueueBackend(settings, http, RunpodClient(settings, http, pause=no_pause, **client))


# No worker works for a client that left


async def test_leaving_while_the_job_waits() -> None:
    """It is cancelled before a worker has it."""
    async with played() as p:
        opening = p.open()
        job = await p.submitted()
        await cancelled(opening)
        end = await p.ended(job)

    assert (end.detail, end.worker_id) == ("CANCELLED", "")


async def test_leaving_before_the_first_output() -> None:
    """The worker is told to stop."""
    async with played() as p:
        opening = p.open()
        job = await p.take()
        await cancelled(opening)
        end = await p.ended(job)

    assert end.detail == "CANCELLED"
    assert p.endpoint.queue.stops == {"w1": [job.id]}


async def test_leaving_in_mid_stream() -> None:
    """And it is known what it took until then."""
    async with played() as p:
        job, upstream = await p.begin(event("a"))
        await piece_of(upstream)
        await upstream.aclose()
        await upstream.aclose()
        facts = await upstream.execution_stats()
        end = await p.ended(job)

    assert end.detail == "CANCELLED"
    assert facts.execution_seconds is not None


async def test_leaving_while_the_job_is_submitted() -> None:
    """Its id comes with the answer to a call that no client waits for any more; then it is cancelled."""
    gate = asyncio.Event()
    async with played() as p:
        p.emulator.faults.add(Fault("run", gate=gate))
        opening = p.open()
        await p.happens(lambda: p.emulator.log.find("held"))
        await cancelled(opening)
        gate.set()
        job = await p.submitted()
        end = await p.ended(job)

    assert end.detail == "CANCELLED"


async def test_leaving_just_before_the_gateway_stops() -> None:
    """A job that is being submitted or cancelled is waited for."""
    gate = asyncio.Event()
    async with played() as p:
        p.emulator.faults.add(Fault("run", gate=gate))
        opening = p.open()
        await p.happens(lambda: p.emulator.log.find("held"))
        await cancelled(opening)
        closing = asyncio.create_task(p.backend.aclose())
        gate.set()
        await closing
        [job] = p.endpoint.queue.jobs.values()

    assert job.status == "CANCELLED"


async def test_leaving_at_any_moment() -> None:
    """Between any two steps of a call: in the end no job is left for a worker to take."""
    async with played() as p:
        for num_steps in range(0, 180, 2):  # less than 100: then cancels would have to wait
            opening = p.open()
            for _ in range(num_steps):
                await asyncio.sleep(0)
            await cancelled(opening)
        await p.backend.aclose()
        statuses = [job.status for job in p.endpoint.queue.jobs.values()]

    assert set(statuses) == {"CANCELLED"}
    assert 0 < len(statuses) < 90


async def test_a_cancel_is_never_dropped() -> None:
    """Refused, lost or broken off, it is tried again."""
    async with played() as p:
        for fault in (Fault("cancel", status=429, num_times=2), Fault("cancel", drops=True, num_times=2),
                      Fault("cancel", status=500, num_times=2)):  # fmt: skip
            p.emulator.faults.add(fault)
        job, upstream = await p.begin(event("a"))
        await upstream.aclose()
        end = await p.ended(job)

    assert end.detail == "CANCELLED"


async def test_many_cancels() -> None:
    """Never more than 20 at once, nor 100 in ten seconds; all are made."""
    now, pauses, num_open, most_open = [0.0], list[float](), [0], [0]

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds
        await asyncio.sleep(0)

    async def script(exchange: Exchange) -> None:
        num_open[0] += 1
        most_open[0] = max(most_open[0], num_open[0])
        await asyncio.sleep(0)
        num_open[0] -= 1
        await exchange.send(reply(200, {"id": "x", "status": "CANCELLED"}))

    async with target_and_client(script) as (target, http):
        settings = RunpodQueueTarget(type="runpod_queue", endpoint_id="ep", api_key="key", base_url=target.url)
        client = RunpodClient(settings, http, clock=lambda: now[0], pause=pause)
        for number in range(250):
            client.cancel_soon(f"job-{number}")
        await client.aclose()
        paths = {exchange.path for exchange in target.exchanges}

    assert len(paths) == 250
    assert most_open[0] <= 20
    assert now[0] >= 20


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Nothing missing, nothing twice


@pytest.mark.parametrize(
    "fault",
    [
        Fault("stream", drops=True, when="after", num_times=2),
        Fault("stream", drops=True, when="before", num_times=2),
        Fault("stream", status=502, when="after", num_times=2),
        Fault("stream", status=429, num_times=8),
    ],
    ids=["lost", "not sent", "bad gateway", "too many calls"],
)
@pytest.mark.parametrize("begun", [True, False])
async def test_polls_that_fail(fault: Fault, begun: bool) -> None:
    """What RunPod told to a broken connection is in the job's whole output, and comes from there."""
    texts = events("a", "b", "c", "d", "é")
    fault.num_applied = 0
    async with played() as p:
        opening = p.open()
        job = await p.take()
        if begun:
            p.put(job, texts[0])
            upstream = await opening
            first = await piece_of(upstream)
        p.emulator.faults.add(fault)
        p.put(job, *texts[begun:3])
        p.put(job, *texts[3:], DONE)
        p.done(job, [*texts, DONE])
        body = first + await read(upstream) if begun else await read(await opening)

    assert body.decode() == "".join([*texts, DONE])
    assert fault.num_applied


async def test_a_poll_that_fails_while_the_job_waits() -> None:
    """Nothing can have been lost: the answer still comes piece by piece."""
    gate = asyncio.Event()
    async with played() as p:
        p.emulator.faults.add(Fault("stream", drops=True, num_times=3))
        p.emulator.faults.add(Fault("stream", gate=gate, num_times=1))  # notes that the next has come
        opening = p.open()
        await p.happens(lambda: len(p.emulator.log.find("held")) == 1)
        job = await p.take()
        p.put(job, event("a"))
        gate.set()
        upstream = await opening
        first = await piece_of(upstream)
        await upstream.aclose()

    assert first.decode() == event("a")


async def test_what_is_lost_for_good() -> None:
    """A worker may not tell its whole output in the end. Then it is an error, never a hole."""
    async with played() as p:
        job, upstream = await p.begin(event("a"))
        await piece_of(upstream)
        p.emulator.faults.add(Fault("stream", drops=True, when="after", num_times=1))
        reading = asyncio.create_task(read(upstream))
        p.put(job, event("b"))
        await p.happens(lambda: p.emulator.log.find("fault"))
        p.put(job, event("c"), DONE)
        p.done(job)
        with pytest.raises(TargetUnreachableError, match="A part of the answer was lost"):
            await reading


async def test_a_platform_that_is_gone() -> None:
    """In the end it is given up."""
    async with played() as p:
        p.emulator.faults.add(Fault("stream", drops=True))
        p.emulator.faults.add(Fault("status", drops=True))
        opening = p.open()
        job = await p.take()
        with pytest.raises(TargetUnreachableError):
            await opening
        end = await p.ended(job)

    assert end.detail == "CANCELLED"


async def test_a_platform_that_does_not_hold_polls() -> None:
    """It is not called as fast as it answers."""
    pauses, enough = list[float](), asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            enough.set()
        await asyncio.sleep(0)

    async def script(exchange: Exchange) -> None:
        await exchange.send(reply(200, {"id": "x", "status": "IN_PROGRESS", "stream": []}))

    async with target_and_client(script) as (target, http):
        settings = RunpodQueueTarget(type="runpod_queue", endpoint_id="ep", api_key="key", base_url=target.url)
        backend = RunpodQueueBackend(settings, http, RunpodClient(settings, http, pause=pause))
        opening = asyncio.create_task(backend.open(CHAT))
        await enough.wait()
        await cancelled(opening)
        await backend.aclose()

    assert set(pauses) == {0.25}


# A worker that dies


async def test_a_worker_dies_in_mid_stream() -> None:
    """The job is in the queue again: what another worker would put out is another answer."""
    async with played(Settings(max_wait=0.05)) as p:
        job, upstream = await p.begin(event("a"))
        await piece_of(upstream)
        p.die(job)
        with pytest.raises(TargetUnreachableError, match="The worker died while it answered"):
            await piece_of(upstream)
        await upstream.aclose()
        end = await p.ended(job)

    assert end.detail == "CANCELLED"


@pytest.mark.parametrize("forgets", [True, False])
async def test_another_worker_goes_on_at_once(forgets: bool) -> None:
    """Its answer is not put after the beginning of the first one's, whatever the platform does with that."""
    async with played(Settings(forget_stream_on_retry=forgets)) as p:
        job, upstream = await p.begin(*events("a", "b"))
        await piece_of(upstream)
        p.put(job, event("c"))
        p.die(job)
        await p.take("w2")
        p.put(job, *events("a", "b", "c", "d", run="chatcmpl-2"), DONE)
        p.done(job)
        with pytest.raises(TargetUnreachableError, match="The worker died while it answered"):
            await read(upstream)


async def test_a_worker_dies_before_it_answers() -> None:
    """The client does not notice."""
    async with played() as p:
        opening = p.open()
        job = await p.take()
        p.die(job)
        await p.take("w2")
        p.put(job, event("a"), DONE)
        body = await read(await opening)

    assert body.decode() == event("a") + DONE


@pytest.mark.parametrize("has_retries", [True, False])
async def test_another_worker_goes_on_after_one_event(has_retries: bool) -> None:
    """Then RunPod is asked whether the job was begun again; it may tell by the time alone."""
    clock = Clock()
    async with played(clock=clock) as p:
        job, upstream = await p.begin(event("a"))
        await piece_of(upstream)
        clock.advance(5)
        p.die(job)
        job.num_retries *= has_retries
        await p.take("w2")
        p.put(job, event("a", run="chatcmpl-2"))
        with pytest.raises(TargetUnreachableError, match="The worker died while it answered"):
            await read(upstream)


async def test_a_server_with_an_id_for_every_chunk() -> None:
    """It is no sign of death there."""
    texts = [event(text, run=f"chatcmpl-{text}") for text in "abcdef"]
    async with played() as p:
        job, upstream = await p.begin(texts[0])
        pieces = [await piece_of(upstream)]
        for text in texts[1:]:
            p.put(job, text)
            pieces.append(await piece_of(upstream))
        p.done(job, texts)
        rest = await read(upstream)

    assert b"".join([*pieces, rest]).decode() == "".join(texts)


A1, B1, A2, B2 = event("a", "1"), event("b", "1"), event("a", "2"), event("b", "2")


@pytest.mark.parametrize(
    ("texts", "verdicts"),
    [
        ([A1 + B1, A2], ["same", "other"]),
        ([A1, B1, A2 + B2, A1], ["same", "same", "other", "other"]),
        ([A1, A2, B2, A1], ["same", "unsure", "same", "other"]),
        ([A1 + A2], ["unsure"]),
        ([A1, B1, ": hi\n\n", "data: x\n\n", DONE], 5 * ["same"]),
        ([A1, B1, 'data: {"error": {"message": "No."}}\n\n'], 3 * ["same"]),
    ],
)
def test_which_events_are_of_one_run(texts: list[str], verdicts: list[str]) -> None:
    """Those whose chunks have one id, or none."""
    detector = RerunDetector()

    assert [detector.look(events_in(text.encode())) for text in texts] == verdicts


# How the endpoint is


async def test_health() -> None:
    """Counts, and a sentence."""
    async with played() as p:
        openings = [p.open() for _ in range(3)]
        await p.happens(lambda: len(p.endpoint.queue.waiting) == 3)
        p.endpoint.fleet.seen("w1")
        p.endpoint.fleet.seen("w2")
        await p.take("w1")
        health = await p.backend.health()
        for opening in openings:
            await cancelled(opening)

    assert health == (True, "workers: 1 running, 1 idle; jobs in the queue: 2", 2, 0, 2)


async def test_health_of_an_endpoint_without_workers() -> None:
    """It can be reached, and a request would have to wait."""
    async with played() as p:
        health = await p.backend.health()

    assert health == (True, "workers: none; jobs in the queue: 0", 0, 0, 0)


# The other way to it


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (str({"message": f"vLLM returned HTTP 400: {json.dumps({'error': ERROR})}", "type": "worker_error"}), 400),
        ("Error code: 404 - {'error': {'message': 'No such role.'}}", 404),
        (json.dumps({"error": ERROR, "status": 422}), 422),
        ("CUDA out of memory", 500),
    ],
)
async def test_a_failed_job_behind_api_openai(error: str, status: int) -> None:
    """gateway.md A1, A3: RunPod says 500 of all; the worker's error says whose fault it was."""
    async with played(api="openai") as p:
        opening = p.open(CHAT)
        p.fail(await p.take(), error)
        upstream = await opening
        body = await read(upstream)

    assert (upstream.status, explain(body).status) == (status, status)


async def test_api_openai() -> None:
    """RunPod turns the request into a job itself."""
    async with played(api="openai") as p:
        opening = p.open()
        job = await p.take()
        p.put(job, event("a"), DONE)
        p.done(job)
        upstream = await opening
        body = await read(upstream)

    assert job.input["openai_route"] == "/v1/chat/completions"
    assert (upstream.status, body.decode()) == (200, event("a") + DONE)
