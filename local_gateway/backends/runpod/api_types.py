"""What a RunPod queue endpoint says on the wire, and what it means. Pure."""

from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from local_gateway.backends.http import Reply
from local_gateway.errors import (
    AnswerBrokenError,
    PayloadTooLargeError,
    RequestError,
    TargetConfigError,
    TargetError,
    TargetRefusedError,
)
from local_gateway.wire.retry_after import retry_after_of


class Status(StrEnum):
    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def is_final(self) -> bool:
        return self not in (Status.IN_QUEUE, Status.IN_PROGRESS)

    @classmethod
    def _missing_(cls, value: object) -> "Status":
        """RunPod's documentation has RUNNING too: what is not known to be an end is none."""
        return cls.IN_PROGRESS


class StreamPoll(NamedTuple):
    """What a job has put out since the last call."""

    status: Status
    outputs: list[object]


class JobStatus(NamedTuple):
    """A job as /status shows it. Times are seconds; None while they are not known."""

    status: Status
    output: object
    error: object
    queue_seconds: float | None  # until it was begun, for the last time if its worker died
    execution_seconds: float | None
    num_retries: int  # by the platform; 0 also if it does not say


class JobUnknownError(TargetError):
    """The platform does not know the job: its time to live is over, or its result was kept long enough."""


def body_of(reply: Reply) -> dict[str, Any]:
    """The JSON object of an answer. Raises the gateway's own error for any other answer."""
    if reply.status >= 300:
        raise refusal(reply)
    try:
        body = orjson.loads(reply.body)
    except orjson.JSONDecodeError as error:
        raise AnswerBrokenError("RunPod's answer is not JSON.") from error
    if not isinstance(body, dict):
        raise AnswerBrokenError("RunPod's answer is not a JSON object.")
    return body


def job_id_of(body: dict[str, Any]) -> str:
    """The id in an answer of /run. Raises AnswerBrokenError if there is none."""
    job_id = body.get("id")
    if not isinstance(job_id, str):
        raise AnswerBrokenError("RunPod took a job but did not say which.")
    return job_id


def poll_of(body: dict[str, Any]) -> StreamPoll:
    """An answer of /stream. Raises AnswerBrokenError if it has no outputs."""
    items = body.get("stream")
    if not isinstance(items, list):
        raise AnswerBrokenError("RunPod's answer to /stream has no list of outputs.")
    outputs = [item.get("output") if isinstance(item, dict) else item for item in items]
    return StreamPoll(Status(str(body.get("status"))), outputs)


def status_of(body: dict[str, Any]) -> JobStatus:
    """An answer of /status."""
    return JobStatus(
        Status(str(body.get("status"))),
        body.get("output"),
        body.get("error"),
        _seconds(body.get("delayTime")),
        _seconds(body.get("executionTime")),
        body["retries"] if isinstance(body.get("retries"), int) else 0,
    )


def _seconds(milliseconds: object) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int | float) else None


def refusal(reply: Reply) -> RequestError:
    """The error for a call that RunPod refused, by its HTTP status."""
    error = TargetRefusedError(reply.status, {"message": f"RunPod answered with status {reply.status}."})
    match reply.status:
        case 401 | 403:
            return TargetConfigError("RunPod does not accept our key.")
        case 404:
            return JobUnknownError("RunPod does not know the endpoint, or not the job any more.")
        case 413:
            return PayloadTooLargeError("The request is larger than RunPod takes.")
        case 429:
            error = TargetRefusedError(429, {"message": "RunPod takes no more calls for this endpoint now."})
            error.retry_after = retry_after_of(reply.headers)
    return error
