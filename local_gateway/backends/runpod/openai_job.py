"""OpenAI's API in a job: a call as a job's input, a job's output as an answer. Pure."""

import re
from typing import Any

import orjson

from local_gateway.backends.base import Call
from local_gateway.config.settings import RunpodQueueTarget
from local_gateway.errors import (
    AnswerBrokenError,
    InvalidRequestError,
    MethodNotAllowedError,
    PayloadTooLargeError,
    RouteNotFoundError,
    TargetError,
    TargetRefusedError,
    UnsupportedMediaError,
    WorkerFailedError,
    one_line,
)
from local_gateway.wire.error_body import explain

MAX_PAYLOAD_BYTES = 10_000_000  # of /run
# What workers may have; the rest of OpenAI's API belongs to an account.
PATHS = {
    *("/models", "/chat/completions", "/completions", "/embeddings", "/responses", "/messages", "/moderations"),
    *("/chat/completions/input_tokens", "/responses/input_tokens", "/messages/count_tokens"),
    *("/rerank", "/score", "/pooling", "/classify", "/tokenize", "/detokenize", "/infill"),
}
FOLDERS = ("/models/", "/images/", "/audio/")
MAX_MESSAGE_CHARS = 300  # of an error text that is not ours
SERVER_ERROR = 500
OPENAI_ERROR = re.compile(r'\s*\{\s*"error"\s*:\s*\{')  # as this project's worker writes it


class JobFailedError(TargetRefusedError):
    """The worker itself says what is wrong: with HTTP's status and OpenAI's error object.

    What is its own fault is tried once more at most, like any failure of a worker: see WorkerFailedError.
    """

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(status, error)
        if status >= SERVER_ERROR:
            self.retry = "once"


def payload_of(call: Call, settings: RunpodQueueTarget) -> bytes:
    """What is posted to /run. The body goes into it as it is.

    Raises RouteNotFoundError for a path that no worker has: a job would cost before it says so. Raises another
    RequestError for what a job cannot carry: other methods, other bodies than JSON, more than 10 MB.
    """
    if call.path not in PATHS and not call.path.startswith(FOLDERS):
        raise RouteNotFoundError(f"{one_line(call.path)[:100]} is nothing that a RunPod worker is asked for.")
    policy = {
        "executionTimeout": round(1000 * settings.execution_timeout),
        "ttl": round(1000 * settings.ttl),
    }
    job_input = {"openai_route": f"/v1{call.path}", "openai_input": _body_of(call)}
    payload = orjson.dumps({"input": job_input, "policy": policy})
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadTooLargeError("The request is larger than the 10 MB that RunPod takes.")
    return payload


def _body_of(call: Call) -> object:
    if call.method not in ("GET", "POST"):
        raise MethodNotAllowedError(call.method, ("GET", "POST"))
    if call.method == "GET":
        return {}  # jobs are not told the method: an empty input means GET
    if call.content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaError("This model takes only JSON.")
    try:
        orjson.loads(call.body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError("The request body is not valid JSON.") from error
    return orjson.Fragment(call.body)


def whole_of(outputs: list[object]) -> tuple[object, bytes]:
    """An answer that is not streamed, parsed and as JSON: an object, a text, perhaps in pieces, or a list.

    Raises AnswerBrokenError for text that is neither JSON nor events.
    """
    first = outputs[0]
    if len(outputs) > 1 and not any(isinstance(output, str) for output in outputs):
        return outputs, orjson.dumps(outputs)  # a list as the answer, or chunks of one
    if isinstance(first, list) and len(first) == 1 and isinstance(first[0], dict):
        first = first[0]  # a batch of one answer
    if not isinstance(first, str):
        return first, orjson.dumps(first)
    text = "".join(output for output in outputs if isinstance(output, str))
    try:
        return orjson.loads(text), text.encode()
    except orjson.JSONDecodeError as error:
        raise AnswerBrokenError("What the worker answered is neither JSON nor a stream of events.") from error


def failure_of(error: object) -> TargetError:
    """The error to raise for the `error` of a failed job.

    RunPod's SDK makes text of whatever a worker yields, raises or returns as its error. JobFailedError where the worker
    says what it means: an error object, or a fault of the client's. Else one line of what it says.
    """
    told = explain(error)
    message, *_ = str(told.error.get("message") or "").splitlines() or [""]
    if told.status < SERVER_ERROR or (isinstance(error, str) and OPENAI_ERROR.match(error)):
        return JobFailedError(told.status, told.error)
    return WorkerFailedError(f"The worker failed: {one_line(message)[:MAX_MESSAGE_CHARS] or 'it does not say why.'}")
