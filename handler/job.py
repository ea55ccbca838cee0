"""The RunPod edge: a job in, what the SDK posts for it out.

Accepted under job["input"]:

    {"openai_route": "/v1/chat/completions", "openai_input": {...}}    RunPod's /openai/v1/... addresses
    {"route": "/v1/...", "body": {...}, "method": "POST"}              the same, for /run and /runsync
    {"messages" | "prompt": ..., "sampling_params": {...}, ...}        shorthand for chat or completions

A streamed answer is yielded as text of server-sent events, as much as has gathered since the SDK came back from
posting the last: the first token at once, then as few posts as the round trip allows. Any other answer is one dict.

What never happens: an exception leaves the handler, for the SDK would send its traceback to the client; an error is
yielded as a dict in a dict, for the SDK would send its Python repr; an answer is larger than the platform takes, for
the SDK would drop it and the client wait in vain.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, NamedTuple

from handler.api import sse
from handler.api.routes import CHAT, COMPLETIONS, Api, Method
from handler.api.stream import EventStream
from handler.errors import InvalidRequestError, PayloadTooLargeError, RequestError, UnavailableError, to_response

log = logging.getLogger(__name__)

MAX_POST_CHARS = 200_000  # of at most 4 bytes each: the platform takes posts of 1 MB
MAX_RESULT_BYTES = 10_000_000  # of a job from /run; at its end the SDK sends once more all that was streamed
MAX_SYNC_RESULT_BYTES = 20_000_000  # of a job from /runsync or /openai, whose id begins with "sync-"
RESERVED_BYTES = 10_000  # of a result, for the error that ends one that grows too large

Job = dict[str, Any]
Output = str | dict[str, Any]
Handler = Callable[[Job], AsyncGenerator[Output, None]]


class Call(NamedTuple):
    """What a job asks of the API."""

    route: str
    body: object
    method: Method | None = None

    @property
    def streams(self) -> bool:
        return isinstance(self.body, dict) and self.body.get("stream") is True


def make_handler(api: Api, open_jobs: set[str] | None = None) -> Handler:
    """The function for `runpod.serverless.start`, which insists on an async generator function.

    `open_jobs` has the ids of the jobs whose clients are still told something. Whoever gives it replaces this process
    when the engine is dead, so a job that comes too late is not answered: the platform gives it to another worker.
    """

    async def handle(job: Job) -> AsyncGenerator[Output, None]:
        run = JobRun(job, open_jobs)
        call = None
        try:
            call = parse_job(job.get("input"))
            answer = await api.call(*call)
            if not isinstance(answer, EventStream):
                run.spend(answer)
        except Exception as error:
            if isinstance(error, UnavailableError) and open_jobs is not None:
                await run.leave_to_others(open_jobs)
            run.outcome = f"failed: {error.code if isinstance(error, RequestError) else 'internal_error'}"
            yield _error_output(error, streams=call is not None and call.streams)
            return
        if not isinstance(answer, EventStream):
            yield answer
            return
        _cancel_with_job(answer)
        try:
            async for events in answer:
                for part in _split(events):
                    run.spend(part)
                    yield part
        except PayloadTooLargeError as error:
            answer.cancel()
            run.outcome = f"failed: {error.code}"
            yield _error_output(error, streams=True)

    return handle


class JobRun:
    """A job while this worker has it: its place among the open ones, its size, its lines in the log."""

    def __init__(self, job: Job, open_jobs: set[str] | None) -> None:
        self.outcome = "answered"
        self._id = str(job.get("id"))
        self._open_jobs = set() if open_jobs is None else open_jobs
        self._max_bytes = MAX_SYNC_RESULT_BYTES if self._id.startswith("sync-") else MAX_RESULT_BYTES
        self._num_bytes = 0
        self._started = time.monotonic()
        self._open_jobs.add(self._id)
        log.info("job %s: started", self._id)
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(self._end)  # the SDK has posted the result by then

    def spend(self, output: Output) -> None:
        """Count what is about to be yielded. Raises PayloadTooLargeError, and ValueError if it cannot be posted."""
        self._num_bytes += len(json.dumps(output, ensure_ascii=False).encode()) + len(", ")
        if self._num_bytes > self._max_bytes - RESERVED_BYTES:
            raise PayloadTooLargeError(
                f"The answer is larger than the {self._max_bytes // 1_000_000} MB that RunPod takes as a job's "
                "result. Ask for fewer tokens, choices or logprobs.",
                code="answer_too_large",
            )

    async def leave_to_others(self, open_jobs: set[str]) -> None:
        """Never returns."""
        log.info("job %s: left to another worker", self._id)
        open_jobs.discard(self._id)
        await asyncio.Future()

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._open_jobs.discard(self._id)
        outcome = "stopped" if task.cancelled() else self.outcome
        log.info(
            "job %s: %s after %.1f s, %d bytes", self._id, outcome, time.monotonic() - self._started, self._num_bytes
        )


def parse_job(job_input: object) -> Call:
    """Which route with which body. Raises InvalidRequestError; what is in the body is the route's business."""
    given = job_input if isinstance(job_input, dict) else {}
    if isinstance(route := given.get("openai_route"), str):
        return Call(route, given.get("openai_input") or {})
    if isinstance(route := given.get("route"), str):
        return Call(route, given.get("body") or {}, _parse_method(given.get("method")))
    if "messages" in given or "prompt" in given:
        return Call(CHAT if "messages" in given else COMPLETIONS, _spread(given))
    raise InvalidRequestError(
        "The job's input must have 'messages', 'prompt', 'openai_route' with 'openai_input', or 'route' with 'body'.",
        param="input",
    )


def _parse_method(method: object) -> Method | None:
    if method is None or method == "GET" or method == "POST":
        return method
    raise InvalidRequestError("'method' must be GET or POST.", param="method")


def _spread(job_input: dict[str, Any]) -> dict[str, Any]:
    """The shorthand keeps sampling parameters in a dict of their own, OpenAI does not."""
    rest = {key: value for key, value in job_input.items() if key != "sampling_params"}
    sampling_params = job_input.get("sampling_params") or {}
    if not isinstance(sampling_params, dict):
        raise InvalidRequestError("'sampling_params' must be an object.", param="sampling_params")
    return {**rest, **sampling_params}


def _cancel_with_job(stream: EventStream) -> None:
    """Closing this generator would not do: cancelled while it posts, the SDK leaves it suspended for good."""
    task = asyncio.current_task()
    assert task is not None
    stream.cancel_with(task)


def _error_output(error: Exception, *, streams: bool) -> Output:
    """A stream's reader gets an event, anyone else a failed job whose error is JSON. Both tell HTTP's status too."""
    status, body = to_response(error)
    body = {**body, "status": status}
    return sse.encode_error(body) if streams else {"error": json.dumps(body)}


def _split(text: str) -> Iterator[str]:
    """Pieces small enough to post. The platform joins them, so they may end within an event."""
    for start in range(0, len(text), MAX_POST_CHARS):
        yield text[start : start + MAX_POST_CHARS]
