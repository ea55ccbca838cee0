"""One job at a queue endpoint: what it puts out, in order, nothing twice and nothing missing; or an error.

/stream returns each output once. A call of it that fails after it was sent may have consumed outputs that never
arrived; from then on nothing is passed on until the job is over and /status has its whole output, of which the rest
follows. A worker that dies while it answers is recognized by this: the job is IN_QUEUE again, or the next output begins
another answer (RerunDetector). None of that is passed on: it would repeat what the client has.
"""

import asyncio
import hashlib
import logging
import math
from collections.abc import Iterable

import orjson

from local_gateway.backends.runpod.api_types import JobStatus, Status, StreamPoll
from local_gateway.backends.runpod.client import BACKOFF, RunpodClient
from local_gateway.backends.runpod.openai_job import failure_of
from local_gateway.backends.runpod.rerun_detector import RerunDetector
from local_gateway.errors import (
    AnswerBrokenError,
    TargetError,
    TargetGaveUpError,
    TargetRefusedError,
    TargetTimeoutError,
    TargetUnreachableError,
)
from local_gateway.wire.call_ledger import ExecutionStats
from local_gateway.wire.sse import Event

log = logging.getLogger(__name__)

MIN_HOLD = 0.25  # seconds; RunPod holds an empty poll longer, and one that comes back sooner must not become a storm
STATS_TIMEOUT = 5.0  # seconds


class RunpodJob:
    """A submitted job. Its owner calls `cancel` in the end, whatever happened; after `finish` that does nothing.

    Knows the platform's statuses and the ids of chunks, not the form of an answer. Lives in the event loop.
    """

    def __init__(self, client: RunpodClient, job_id: str, submitted: float) -> None:
        """`submitted` is the time at which the submission began, by the client's clock."""
        self.id = job_id
        self._submitted = submitted
        self._first_output_after = math.inf  # seconds
        self._client = client
        self._status = Status.IN_QUEUE
        self._reruns = RerunDetector()
        self._digest = hashlib.sha256()
        self._num_given = 0  # characters
        self._has_gap = False  # an output may be lost: only the whole output tells
        self._is_done = False  # it is over, or about to be, or cancelled
        self._cancelling: asyncio.Task[None] | None = None
        self._final: JobStatus | None = None  # when it was over

    async def more(self) -> list[object]:
        """What came since the last call, as soon as there is any; [] when the job is completed.

        Raises TargetError: TargetGaveUpError if RunPod stopped it, JobFailedError with the worker's own error.
        """
        while not self._status.is_final:
            poll = await self._next()
            self._note(poll)
            outputs = [output for output in poll.outputs if output not in ("", None)]
            if outputs and not self._has_gap:
                return self._give(outputs)
        if self._is_done or (self._status is Status.COMPLETED and self._num_given and not self._has_gap):
            self._is_done = True
            return []
        final = await self._end()
        return self._give(self._rest_of(final.output))

    # While it runs

    async def _next(self) -> StreamPoll:
        """The next poll that succeeds. Whether one before it may have lost something is known then."""
        for backoff in BACKOFF:
            try:
                return await self._poll()
            except TargetError as error:
                if not _may_have_lost(error):
                    raise
                failure = error
            await self._client.pause_before_try(backoff, failure)
            await self._check_gap()
        raise failure

    async def _poll(self) -> StreamPoll:
        began = self._client.clock()
        poll = await self._client.stream(self.id)
        is_empty = not (poll.outputs or poll.status.is_final)
        if is_empty and self._client.clock() - began < MIN_HOLD:
            await self._client.pause(MIN_HOLD)
        return poll

    async def _check_gap(self) -> None:
        """Nothing can be lost of a job that no worker has begun."""
        now = await self._client.status(self.id)
        self._has_gap = self._has_gap or now.status is not Status.IN_QUEUE

    def _note(self, poll: StreamPoll) -> None:
        self._status = poll.status
        if poll.status is Status.IN_QUEUE and self._num_given > 0:
            raise _worker_died()

    async def check_run(self, events: Iterable[Event]) -> None:
        """The next events in the job's output. Raises TargetUnreachableError if another run begins with them."""
        verdict = self._reruns.look(events)
        if verdict == "other" or (verdict == "unsure" and await self._was_begun_again()):
            raise _worker_died()

    async def _was_begun_again(self) -> bool:
        """RunPod counts retries, or says that the job was begun after it had put something out already."""
        now = await self._client.status(self.id)
        is_again = now.num_retries > 0 or (now.queue_seconds or 0.0) > self._first_output_after
        if not is_again:
            self._reruns.ignore_ids()
        return is_again

    def _give(self, outputs: list[object]) -> list[object]:
        if not self._num_given:
            self._first_output_after = self._client.clock() - self._submitted
        for output in outputs:
            text = _text_of(output)
            self._num_given += len(text)
            self._digest.update(text.encode())
        return outputs

    # When it is over

    async def _end(self) -> JobStatus:
        """Its final status. Raises TargetError unless it is completed."""
        self._final = await self._client.status(self.id)
        self._is_done = True
        match self._status:
            case Status.FAILED:
                raise failure_of(self._final.error)
            case Status.TIMED_OUT:
                raise TargetGaveUpError("RunPod stopped the job: it waited or worked too long.")
            case Status.CANCELLED:
                raise TargetError("The job was cancelled at RunPod.")
        return self._final

    def _rest_of(self, output: object) -> list[object]:
        """The part of the whole output that was not passed on yet. Raises TargetUnreachableError if it does not fit."""
        outputs = output if isinstance(output, list) else [] if output is None else [output]
        if not self._num_given:
            return outputs
        text = "".join(map(_text_of, outputs))
        if hashlib.sha256(text[: self._num_given].encode()).digest() != self._digest.digest():
            raise TargetUnreachableError("A part of the answer was lost on its way from RunPod.")
        return [text[self._num_given :]] if text[self._num_given :] else []

    def finish(self) -> None:
        """The answer is complete, so the job is about to end by itself."""
        self._is_done = True

    def cancel(self) -> None:
        """No more output is wanted. A job that is not over is cancelled in the background. May be repeated."""
        if not self._is_done:
            self._is_done = True
            self._cancelling = self._client.cancel_soon(self.id)

    async def execution_stats(self) -> ExecutionStats:
        """How long it waited and ran, as the platform tells. Takes STATS_TIMEOUT at most; never raises."""
        try:
            async with asyncio.timeout(STATS_TIMEOUT):
                final = await self._when_over()
        except (TargetError, TimeoutError) as error:
            log.debug("job %s: how long it ran is not known: %s", self.id, error)
            return ExecutionStats()
        if final.execution_seconds is None and final.status is Status.CANCELLED and not self._num_given:
            return ExecutionStats(0.0, final.queue_seconds)  # no worker had begun it
        return ExecutionStats(final.execution_seconds, final.queue_seconds)

    async def _when_over(self) -> JobStatus:
        if self._cancelling is not None:
            await asyncio.shield(self._cancelling)
        while not self._status.is_final:
            self._status = (await self._next()).status
        return self._final or await self._client.status(self.id)


def _worker_died() -> TargetUnreachableError:
    return TargetUnreachableError("The worker died while it answered.")


def _may_have_lost(error: TargetError) -> bool:
    """Whether a failed call of /stream may have taken outputs along: not one that was refused."""
    if isinstance(error, TargetRefusedError):
        return error.status >= 500
    return isinstance(error, TargetUnreachableError | TargetTimeoutError | AnswerBrokenError)


def _text_of(output: object) -> str:
    return output if isinstance(output, str) else orjson.dumps(output).decode()
