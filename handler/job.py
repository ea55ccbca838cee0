"""The RunPod edge: a job in, what the SDK posts for it out.

Accepted under job["input"]:

    {"openai_route": "/v1/chat/completions", "openai_input": {...}}    RunPod's /openai/v1/... addresses
    {"route": "/v1/...", "body": {...}, "method": "POST"}              the same, for /run and /runsync
    {"messages" | "prompt": ..., "sampling_params": {...}, ...}        shorthand for chat or completions
    {"input": ...} | {"query": ..., "documents": ...}                  shorthand for embeddings or rerank

A streamed answer is yielded as text of server-sent events, as much as has gathered since the SDK came back from
posting the last: the first token at once, then as few posts as the round trip allows. Any other answer is one dict.

What never happens: an exception leaves the handler, for the SDK would send its traceback to the client; an error is
yielded as a dict in a dict, for the SDK would send its Python repr; an answer is larger than the platform takes, for
the SDK would drop it and the client wait in vain.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, NamedTuple

from handler.api.common import Answer
from handler.api.routes import CHAT, COMPLETIONS, EMBEDDINGS, RERANK, Method, Routes, encode_error, error_response
from handler.api.stream import EventStream
from handler.errors import InvalidRequestError, UnavailableError
from handler.job_run import Job, JobRun, Output

MAX_POST_CHARS = 200_000  # of at most 4 bytes each: the platform takes posts of 1 MB

Handler = Callable[[Job], AsyncGenerator[Output, None]]


class Call(NamedTuple):
    """A job's request to the API, in the order of `Api.call`'s parameters."""

    route: str
    body: object
    method: Method | None = None

    @property
    def streams(self) -> bool:
        return isinstance(self.body, dict) and self.body.get("stream") is True


def make_handler(api: Routes, open_jobs: set[str] | None = None) -> Handler:
    """The function for `runpod.serverless.start`, which insists on an async generator function.

    `open_jobs` holds the ids of the jobs that are not over. Where it is given, this process is replaced when the engine
    is dead, so a job that comes after that is left unanswered: the platform gives it to another worker.
    """

    async def handle(job: Job) -> AsyncGenerator[Output, None]:
        run = JobRun(job, open_jobs)
        streams, route = False, ""
        try:
            call = parse_job(job.get("input"))
            streams, route = call.streams, call.route
            answer = await api.call(*call, unlimited=is_shorthand(job.get("input")))
            async for output in _outputs(answer, run):
                yield output
        except Exception as error:
            if isinstance(error, UnavailableError) and open_jobs is not None:
                await run.leave_to_others()
            run.note_failure(error)
            yield _error_output(error, route, streams=streams)

    return handle


async def _outputs(answer: Answer | EventStream, run: JobRun) -> AsyncGenerator[Output, None]:
    """The SDK's posts of an answer. Raises PayloadTooLargeError before the platform would refuse the result."""
    if not isinstance(answer, EventStream):
        run.spend(answer)
        yield answer
        return
    _cancel_with_job(answer)
    async for events in answer:
        run.spend(events)
        for part in _split(events):
            yield part


def is_shorthand(job_input: object) -> bool:
    """Whether the job has the worker's own form: OpenAI's default limit of 16 tokens is of its route alone."""
    return isinstance(job_input, dict) and not {"openai_route", "route"} & job_input.keys()


def parse_job(job_input: object) -> Call:
    """Which route with which body. Raises InvalidRequestError; what is in the body is the route's business."""
    given = job_input if isinstance(job_input, dict) else {}
    if isinstance(route := given.get("openai_route"), str):
        return Call(route, given.get("openai_input") or {})
    if isinstance(route := given.get("route"), str):
        return Call(route, given.get("body") or {}, _parse_method(given.get("method")))
    if "messages" in given or "prompt" in given:
        return Call(CHAT if "messages" in given else COMPLETIONS, _spread(given))
    if "input" in given or "query" in given:
        return Call(EMBEDDINGS if "input" in given else RERANK, given)
    raise InvalidRequestError(
        "The job's input must have 'messages', 'prompt', 'input', 'query', 'openai_route' with 'openai_input', or "
        "'route' with 'body'.",
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


def _error_output(error: Exception, route: str, *, streams: bool) -> Output:
    """An event for a stream, otherwise a failed job whose error is a JSON text; both with the HTTP status."""
    status, body = error_response(error, route)
    body = {**body, "status": status}
    return encode_error(body) if streams else {"error": json.dumps(body)}


def _split(text: str) -> Iterator[str]:
    """Cut a text into pieces that the platform takes. It joins them, so they may end within an event."""
    for start in range(0, len(text), MAX_POST_CHARS):
        yield text[start : start + MAX_POST_CHARS]
