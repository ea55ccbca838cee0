"""One job at a queue endpoint: what it puts out, in order, nothing twice and nothing missing; or an error.

/stream tells each output once. A call of it that fails after it was sent may have taken something along that nobody has
seen; from then on nothing is given out until the job is over and /status has its whole output, of which the rest
follows. A worker that dies while it answers shows itself thus: the job is IN_QUEUE again, or the next output begins
another answer (RerunDetector). Of that nothing is given out: it would repeat what the client has.
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
SETTLE_TIMEOUT = 5.0  # seconds


class RunpodJob:
    """Whoever has it calls `leave`, whatever happens."""

    def __init__(self, client: RunpodClient, job_id: str, submitted: float) -> None:
        """`submitted` is when that began, by the client's clock."""
        self.id = job_id
        self._submitted = submitted
        self._first_output_after = math.inf  # seconds
        self._client = client
        self._status = Status.IN_QUEUE
        self._reruns = RerunDetector()
        self._digest = hashlib.sha256()
        self._num_given = 0  # characters
        self._has_gap = False
        self._is_left = False  # nothing more is to be done about it
        self._cancelling: asyncio.Task[None] | None = None
        self._view: JobStatus | None = None  # when it was over

    async def more(self) -> list[object]:
        """What came since the last call, as soon as there is any; [] when the job is completed.

        Raises TargetError: TargetGaveUpError if RunPod stopped it, JobFailedError with the worker's own error.
        """
        while not self._status.is_final:
            news = await self._next()
            self._note(news)
            outputs = [output for output in news.outputs if output not in ("", None)]
            if outputs and not self._has_gap:
                return self._give(outputs)
        if self._is_left or (self._status is Status.COMPLETED and self._num_given and not self._has_gap):
            self._is_left = True
            return []
        view = await self._end()
        return self._give(self._rest_of(view.output))

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
        news = await self._client.stream(self.id)
        is_empty = not (news.outputs or news.status.is_final)
        if is_empty and self._client.clock() - began < MIN_HOLD:
            await self._client.pause(MIN_HOLD)
        return news

    async def _check_gap(self) -> None:
        """Of a job that nobody has begun nothing can be lost."""
        view = await self._client.status(self.id)
        self._has_gap = self._has_gap or view.status is not Status.IN_QUEUE

    def _note(self, news: StreamPoll) -> None:
        self._status = news.status
        if news.status is Status.IN_QUEUE and self._num_given > 0:
            raise _worker_died()

    async def check_run(self, events: Iterable[Event]) -> None:
        """The next events in the job's output. Raises TargetUnreachableError if another run begins with them."""
        verdict = self._reruns.look(events)
        if verdict == "other" or (verdict == "unsure" and await self._was_begun_again()):
            raise _worker_died()

    async def _was_begun_again(self) -> bool:
        """RunPod counts retries, or says that the job was begun after it had put something out already."""
        view = await self._client.status(self.id)
        is_again = view.num_retries > 0 or (view.queue_seconds or 0.0) > self._first_output_after
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
        """How it ended; an error unless it is completed."""
        self._view = await self._client.status(self.id)
        self._is_left = True
        match self._status:
            case Status.FAILED:
                raise failure_of(self._view.error)
            case Status.TIMED_OUT:
                raise TargetGaveUpError("RunPod stopped the job: it waited or worked too long.")
            case Status.CANCELLED:
                raise TargetError("The job was cancelled at RunPod.")
        return self._view

    def _rest_of(self, output: object) -> list[object]:
        """What of the whole output was not given out yet."""
        outputs = output if isinstance(output, list) else [] if output is None else [output]
        if not self._num_given:
            return outputs
        text = "".join(map(_text_of, outputs))
        if hashlib.sha256(text[: self._num_given].encode()).digest() != self._digest.digest():
            raise TargetUnreachableError("A part of the answer was lost on its way from RunPod.")
        return [text[self._num_given :]] if text[self._num_given :] else []

    def finish(self) -> None:
        """The answer is complete, so the job is about to end by itself."""
        self._is_left = True

    def leave(self) -> None:
        """Nobody wants more. If it is not over it is cancelled in the background. May be repeated."""
        if not self._is_left:
            self._is_left = True
            self._cancelling = self._client.cancel_soon(self.id)

    async def execution_stats(self) -> ExecutionStats:
        """How long it waited and ran. Never raises."""
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT):
                view = await self._when_over()
        except (TargetError, TimeoutError) as error:
            log.debug("job %s: how long it ran is not known: %s", self.id, error)
            return ExecutionStats()
        if view.execution_seconds is None and view.status is Status.CANCELLED and not self._num_given:
            return ExecutionStats(0.0, view.queue_seconds)  # no worker had begun it
        return ExecutionStats(view.execution_seconds, view.queue_seconds)

    async def _when_over(self) -> JobStatus:
        if self._cancelling is not None:
            await asyncio.shield(self._cancelling)
        while not self._status.is_final:
            self._status = (await self._next()).status
        return self._view or await self._client.status(self.id)


def _worker_died() -> TargetUnreachableError:
    return TargetUnreachableError("The worker died while it answered.")


def _may_have_lost(error: TargetError) -> bool:
    """Whether a failed call of /stream may have taken outputs along: not one that was refused."""
    if isinstance(error, TargetRefusedError):
        return error.status >= 500
    return isinstance(error, TargetUnreachableError | TargetTimeoutError | AnswerBrokenError)


def _text_of(output: object) -> str:
    return output if isinstance(output, str) else orjson.dumps(output).decode()
