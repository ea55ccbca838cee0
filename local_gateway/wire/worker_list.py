"""RunPod's list of an endpoint's workers: the answer of `GET /v2/serverless/ID/workers` of its REST API. Pure.

Which of them are billed follows from docs.runpod.io: from a worker's start, loading included, to its stop. A worker
that waits for a machine, or for its image there, has no start and no uptime yet. Scaled-down workers, which the console
calls idle and which cost nothing, are not in the list; IDLE here is a worker that runs and has no job.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from local_gateway.errors import AnswerBrokenError

READY = ("RUNNING", "IDLE")  # it works on a job, or asks for one
UNBILLED = ("THROTTLED",)  # it waits for capacity
MAX_ID_CHARS = 200
MAX_UPTIME = 10 * 365 * 86_400.0  # seconds
HALF_A_SECOND = 0.5  # of the begun one that a whole number of seconds leaves out, on average


class SeenWorker(NamedTuple):
    """One worker that is billed at this moment."""

    id: str
    started: float  # seconds since 1970, by RunPod's clock: with the id it names one run, from start to stop
    uptime: float  # seconds since then; where RunPod tells whole ones, the middle of the next
    is_ready: bool


def workers_in(body: Mapping[str, object]) -> list[SeenWorker]:
    """The workers that are billed. Raises AnswerBrokenError where there is no list of them, or one with odd values."""
    items = body.get("workers")
    if not isinstance(items, list):
        raise AnswerBrokenError("RunPod's answer has no list of workers.")
    return [worker for item in items if (worker := _worker_of(item))]


def _worker_of(item: object) -> SeenWorker | None:
    """None: it has not started."""
    if not isinstance(item, dict):
        raise AnswerBrokenError("RunPod's list of workers has something else in it.")
    worker_id, started_at, uptime = item.get("id"), item.get("startedAt"), item.get("uptimeSeconds")
    if started_at is None or uptime is None or item.get("status") in UNBILLED:
        return None
    if not (isinstance(worker_id, str) and isinstance(uptime, int | float) and 0 <= uptime <= MAX_UPTIME):
        raise AnswerBrokenError("RunPod's list of workers has one without an id or an uptime.")
    try:
        started = datetime.fromisoformat(str(started_at)).timestamp()
    except (ValueError, OverflowError) as error:
        raise AnswerBrokenError("RunPod's list of workers has a time that is none.") from error
    begun = HALF_A_SECOND if isinstance(uptime, int) else 0.0
    return SeenWorker(worker_id[:MAX_ID_CHARS], started, uptime + begun, item.get("status") in READY)
