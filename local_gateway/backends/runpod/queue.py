"""A queue endpoint of RunPod: a request becomes a job, the job's output the answer.

Status and headers are known with the first output: text that begins like an event is a stream, anything else a whole
answer. An answer that is not read to its end cancels the job, and so does a cancelled `open`.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson

from local_gateway.backends.base import Call, Health, Upstream
from local_gateway.backends.http import HttpClient, HttpUpstream
from local_gateway.backends.openai import HEALTH_TIMEOUT, OpenAIBackend
from local_gateway.backends.runpod.api_types import JobUnknownError
from local_gateway.backends.runpod.client import RunpodClient
from local_gateway.backends.runpod.job import RunpodJob
from local_gateway.backends.runpod.job_events import JobEvents, begins_stream, flattened
from local_gateway.backends.runpod.openai_job import SERVER_ERROR, JobFailedError, payload_of, whole_of
from local_gateway.config.settings import OpenAITarget, RunpodQueueTarget
from local_gateway.errors import TargetError, WorkerFailedError
from local_gateway.wire.call_ledger import ExecutionStats
from local_gateway.wire.error_body import error_in, explain
from local_gateway.wire.sse import Event, EventBlock

EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
NOTHING: tuple[object, ...] = (None, {}, [], "", 0)  # what a handler returns that returns nothing; 0 is False too
MAX_ERROR_BYTES = 100_000


class JobAnswer:
    """An answer of a job that has begun: a whole one, or with `events` a stream."""

    def __init__(
        self, job: RunpodJob, status: int, headers: Mapping[str, str], begun: bytes, events: JobEvents | None = None
    ) -> None:
        self.status = status
        self.headers = headers
        self._job = job
        self._begun = begun
        self._events = events

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece, self._begun = self._begun or await self._more(), b""
        if not piece:
            raise StopAsyncIteration
        if isinstance(piece, EventBlock) and piece.events[-1].is_done:
            self._events = None
            self._job.finish()
        return piece

    async def _more(self) -> bytes:
        """The next events; what is left of one that was broken off; b"" at the end."""
        while self._events is not None:
            if outputs := await self._job.more():
                if events := await _events_of(self._job, self._events, outputs):
                    return EventBlock.of(events)
                continue
            rest, self._events = self._events.rest, None
            return rest
        return b""

    async def aclose(self) -> None:
        self._job.cancel()

    async def execution_stats(self) -> ExecutionStats:
        return await self._job.execution_stats()


class RunpodQueueBackend:
    """One endpoint. With `api: openai` it is asked over /openai/v1, where jobs cannot be seen or cancelled."""

    def __init__(self, settings: RunpodQueueTarget, http: HttpClient, client: RunpodClient | None = None) -> None:
        self._settings = settings
        self._client = client or RunpodClient(settings, http)
        self._openai = _openai_backend(settings, http) if settings.api == "openai" else None

    async def open(self, call: Call) -> Upstream:
        """Raises TargetError, and a RequestError for what a job cannot carry."""
        if self._openai is not None:
            return await _with_told_status(await self._openai.open(call))
        payload, begun = payload_of(call, self._settings), self._client.clock()
        job = RunpodJob(self._client, await self._client.run(payload), begun)
        call.tally.started(job)
        try:
            return await _answer_of(job)
        except BaseException:
            job.cancel()
            raise

    async def health(self) -> Health:
        """Asks the platform, not a worker: none is started by it."""
        try:
            return _health_of(await self._client.health(HEALTH_TIMEOUT))
        except JobUnknownError:
            return Health(False, "RunPod does not know the endpoint.")
        except TargetError as error:
            return Health(False, str(error))

    async def aclose(self) -> None:
        """Returns when what must be cancelled is cancelled; in 20 s at most."""
        await self._client.aclose()


async def _answer_of(job: RunpodJob) -> JobAnswer:
    """Waits for the first output, or for the whole answer where it is no stream."""
    try:
        outputs = await job.more()
    except JobFailedError as error:
        return _error_answer(job, error.status, error.error)
    if not outputs:
        raise WorkerFailedError("RunPod says that the job is completed, but there is no answer.")
    if begins_stream(next(iter(flattened(outputs)), None)):
        return await _stream_of(job, outputs)
    while isinstance(outputs[0], str) and (more := await job.more()):
        outputs += more
    parsed, body = whole_of(outputs)
    if parsed in NOTHING:
        raise WorkerFailedError("RunPod says that the job is completed, but its answer is empty.")
    job.finish()
    if told := error_in(parsed):
        return _error_answer(job, *told)
    return JobAnswer(job, 200, JSON, body)


async def _stream_of(job: RunpodJob, outputs: list[object]) -> JobAnswer:
    """A stream that begins with an error is none: the client gets the status that the worker means."""
    stream = JobEvents()
    events = await _events_of(job, stream, outputs)
    if events and (error := events[0].error):
        job.finish()
        return _error_answer(job, *error)
    return JobAnswer(job, 200, EVENTS, EventBlock.of(events) if events else b"", stream)


def _error_answer(job: RunpodJob, status: int, error: dict[str, Any]) -> JobAnswer:
    """What the worker says of a fault of the client's. Raises JobFailedError for its own."""
    if status >= SERVER_ERROR:
        raise JobFailedError(status, error)
    return JobAnswer(job, status, JSON, orjson.dumps({"error": error}))


async def _events_of(job: RunpodJob, stream: JobEvents, outputs: list[object]) -> list[Event]:
    """The events that are whole now, all of one run."""
    events: list[Event] = []
    try:
        for event in stream.feed(outputs):
            events.append(event)
    finally:
        await job.check_run(events)
    return events


async def _with_told_status(upstream: HttpUpstream) -> HttpUpstream:
    """RunPod answers 500 for every failed job: the status is what the job's error says, if that is the client's."""
    if upstream.status != SERVER_ERROR:
        return upstream
    try:
        told = explain(await upstream.read(MAX_ERROR_BYTES))
    except BaseException:
        await upstream.aclose()
        raise
    if told.status < SERVER_ERROR:
        upstream.status = told.status
    return upstream


def _openai_backend(settings: RunpodQueueTarget, http: HttpClient) -> OpenAIBackend:
    base_url = f"{settings.base_url.rstrip('/')}/{settings.endpoint_id}/openai/v1"
    target = OpenAITarget(type="openai", base_url=base_url, api_key=settings.api_key, headers=settings.headers)
    return OpenAIBackend(target, http)


def _health_of(body: dict[str, object]) -> Health:
    """An answer of /health. Workers that run or are idle answer at once, `initializing` ones soon."""
    workers, jobs = _counts(body.get("workers")), _counts(body.get("jobs"))
    names = {"running": "running", "idle": "idle", "initializing": "starting", "throttled": "throttled",
             "unhealthy": "unhealthy"}  # fmt: skip
    told = [f"{workers[name]} {word}" for name, word in names.items() if workers.get(name)]
    num_queued = jobs.get("inQueue", 0)
    return Health(
        True,
        f"workers: {', '.join(told) or 'none'}; jobs in the queue: {num_queued}",
        num_ready_workers=workers.get("running", 0) + workers.get("idle", 0),
        num_starting_workers=workers.get("initializing", 0),
        num_queued=num_queued,
    )


def _counts(value: object) -> dict[str, int]:
    return {name: count for name, count in value.items() if isinstance(count, int)} if isinstance(value, dict) else {}
