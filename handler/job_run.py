"""One job while this worker has it. Knows nothing of what is asked and answered but its size."""

import asyncio
import json
import logging
import time
from typing import Any

from handler.api import sse
from handler.errors import PayloadTooLargeError, RequestError

log = logging.getLogger(__name__)

MAX_RESULT_BYTES = 10_000_000  # of a job from /run; at its end the SDK sends once more all that was streamed
MAX_SYNC_RESULT_BYTES = 20_000_000  # of a job from /runsync or /openai, whose id begins with "sync-"
RESERVED_BYTES = 10_000  # of a result, for the error that ends one that grows too large

Job = dict[str, Any]
Output = str | dict[str, Any]


class JobRun:
    """A job while this worker has it: its place among the open ones, its size, its lines in the log."""

    def __init__(self, job: Job, open_jobs: set[str] | None) -> None:
        self._outcome = "answered"
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
        if isinstance(output, str) and sse.is_error(output):
            self._outcome = "failed after it had begun"
        self._num_bytes += len(json.dumps(output, ensure_ascii=False).encode()) + len(", ")
        if self._num_bytes > self._max_bytes - RESERVED_BYTES:
            raise PayloadTooLargeError(
                f"The answer is larger than the {self._max_bytes // 1_000_000} MB that RunPod takes as a job's "
                "result. Ask for fewer tokens, choices or logprobs.",
                code="answer_too_large",
            )

    def note_failure(self, error: Exception) -> None:
        self._outcome = f"failed: {error.code if isinstance(error, RequestError) else 'internal_error'}"

    async def leave_to_others(self) -> None:
        """Never returns: the platform gives the job to another worker when this one is gone."""
        log.info("job %s: left to another worker", self._id)
        self._open_jobs.discard(self._id)
        await asyncio.Future()

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._open_jobs.discard(self._id)
        outcome = "stopped" if task.cancelled() else self._outcome
        log.info(
            "job %s: %s after %.1f s, %d bytes", self._id, outcome, time.monotonic() - self._started, self._num_bytes
        )
