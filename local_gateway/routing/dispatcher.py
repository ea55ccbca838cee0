"""A request and its route → an answer: targets are asked in turn until one gives its first content.

Until then nothing is promised to the client, so that a failure can go on to the next target unnoticed, or keep its
status. Knows nothing of clients, keys and money.
"""

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from local_gateway.backends.base import Upstream
from local_gateway.config.settings import GatewaySettings
from local_gateway.edge.client_request import JSON_TYPE, ClientRequest
from local_gateway.errors import (
    AnswerBrokenError,
    RequestError,
    TargetConfigError,
    TargetPausedError,
    TargetRefusedError,
    TargetTimeoutError,
)
from local_gateway.routing.answer_source import RoutedRequest
from local_gateway.routing.error_policy import CLIENTS_FAULT, judge
from local_gateway.routing.health_watch import ColdStartProbe
from local_gateway.routing.retry_plan import RetryPlan
from local_gateway.routing.router import Choice
from local_gateway.routing.target import Target
from local_gateway.routing.upstream_call import call_for
from local_gateway.telemetry.metrics import Metrics
from local_gateway.wire import stream_normalizer
from local_gateway.wire.answer import Answer, Origin
from local_gateway.wire.call_ledger import ExecutionStats
from local_gateway.wire.error_body import explain
from local_gateway.wire.sse import EVENT_STREAM, EventSplitter, error_of, has_content, split_events

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 100_000_000  # of an answer that is no stream
MAX_HELD_BYTES = 1_000_000  # of a stream before its first content
OUR_ACCOUNT = (401, 402, 403)  # statuses that are about the gateway's key, not about the request


class Dispatcher:
    """The innermost AnswerSource: it asks targets.

    Owns nothing but its settings; the state of targets is theirs. Lives in the task of each request. Raises a
    RequestError when no target has an answer.
    """

    def __init__(
        self, settings: GatewaySettings, metrics: Metrics, clock: Callable[[], float], rng: random.Random
    ) -> None:
        self._timeouts = settings.timeouts
        self._retry = settings.retry
        self._metrics = metrics
        self._clock = clock
        self._rng = rng

    async def answer(self, routed: RoutedRequest) -> Answer:
        """Raises a RequestError when no target has an answer. Cancelled, it leaves nothing running at any target."""
        deadline = self._clock() + self._timeouts.total
        plan = RetryPlan(routed.route.order(self._rng), self._retry, deadline, self._clock, self._rng)
        num_failed = 0
        while (step := plan.next()) is not None:
            await asyncio.sleep(step.delay)
            try:
                answer = await self._try(step.choice, routed, plan.deadline)
            except RequestError as error:
                if not isinstance(error, TargetPausedError):  # that one was not asked
                    num_failed += 1
                    error.target, error.num_attempts = step.choice.target.name, num_failed
                    self._note_failure(step.choice.target, error)
                plan.failed(step.choice, error)
            else:
                answer.origin.num_attempts = num_failed + 1
                return answer
        raise plan.error()

    async def _try(self, choice: Choice, routed: RoutedRequest, deadline: float) -> Answer:
        """One target, to its first content. What was opened is closed with the answer, or here."""
        target = choice.target
        async with AsyncExitStack() as stack:
            attempt = stack.enter_context(target.attempt())
            tally = stack.enter_context(routed.request.calls.begin(target.name, target.settings.price))
            with ColdStartProbe(target, self._metrics, self._timeouts.commit) as watch:
                async with _limit(deadline - self._clock(), target):
                    call = replace(call_for(routed.request, choice, scope=routed.who), tally=tally)
                    upstream = await target.backend.open(call)
                    stack.push_async_callback(upstream.aclose)
                    await _refuse_errors(upstream, target)
                    body = await self._begin(upstream, target, routed.request)
            attempt.succeeded()
            origin = Origin(target.name, target.settings.price, is_cold=watch.is_cold, call=tally)
            return Answer(upstream.status, _headers(upstream), TargetBody(body, upstream, stack.pop_all()), origin)
        raise AssertionError("unreachable: the stack swallows nothing")

    async def _begin(self, upstream: Upstream, target: Target, request: ClientRequest) -> AsyncIterator[bytes]:
        """The body, when its first content is there; all of it if it is no stream."""
        content_type = upstream.headers.get("content-type", "")
        if content_type.startswith(EVENT_STREAM):
            blocks = await _until_content(_events(aiter(upstream)), target)
            is_repaired = target.settings.normalize and request.path in stream_normalizer.PATHS
            return _repaired(blocks) if is_repaired else blocks
        if content_type.startswith(JSON_TYPE):
            return _only(await _read_all(aiter(upstream)))
        return aiter(upstream)

    def _note_failure(self, target: Target, error: RequestError) -> None:
        if judge(error) == CLIENTS_FAULT:
            return
        self._metrics.attempt_failed(target.name, error)
        level = logging.ERROR if isinstance(error, TargetConfigError) else logging.WARNING
        log.log(level, "target %s: %s", target.name, error.log_text, extra={"target": target.name})


def _headers(upstream: Upstream) -> dict[str, str]:
    """The target's, its own id of the request beside ours."""
    headers = dict(upstream.headers)
    if request_id := headers.pop("x-request-id", ""):
        headers["x-target-request-id"] = request_id
    return headers


class TargetBody:
    """The body of an answer, from its first content on; closing it closes all that the attempt opened."""

    def __init__(self, blocks: AsyncIterator[bytes], upstream: Upstream, opened: AsyncExitStack) -> None:
        self._blocks = blocks
        self._upstream = upstream
        self._opened = opened

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._blocks)

    async def aclose(self) -> None:
        await self._opened.aclose()

    async def execution_stats(self) -> ExecutionStats:
        return await self._upstream.execution_stats()


class _limit:  # noqa: N801 (used like asyncio.timeout, which it is but for the error)
    """asyncio.timeout with the gateway's error."""

    def __init__(self, seconds: float, target: Target) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._target = target

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *args: object) -> None:
        try:
            await self._timeout.__aexit__(*args)  # type: ignore[arg-type]  # what came in goes on as it is
        except TimeoutError:
            raise TargetTimeoutError(f"The target {self._target.name} did not answer in time.") from None


async def _refuse_errors(upstream: Upstream, target: Target) -> None:
    """An answer that is an error is raised as one. Raises TargetConfigError, TargetRefusedError."""
    if upstream.status >= 400:
        error = explain(await _read_all(aiter(upstream)), upstream.status).error
        raise _refusal(upstream.status, error, target, _seconds(upstream.headers.get("retry-after")))


def _refusal(
    status: int, error: dict[str, object], target: Target, retry_after: float | None = None
) -> TargetConfigError | TargetRefusedError:
    if status in OUR_ACCOUNT:  # its text is not for clients, and may repeat a part of our key
        return TargetConfigError(f"The target {target.name} does not accept the gateway's key or account.")
    return TargetRefusedError(status, error, retry_after=retry_after)


def _seconds(retry_after: str | None) -> float | None:
    """Seconds, if it is written so; the form with a date is not used by the APIs we call."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole events, one or more at a time; last what is left without an end."""
    splitter = EventSplitter()
    async for piece in pieces:
        if block := splitter.feed(piece):
            yield block
    if rest := splitter.rest():
        yield rest


async def _until_content(blocks: AsyncIterator[bytes], target: Target) -> AsyncIterator[bytes]:
    """The same, from the first, when the first content is among them: all up to it in one block.

    Raises TargetError if there is none.
    """
    held: list[bytes] = []
    async for block in blocks:
        held.append(block)
        if _has_content(block, target):
            return _replay(b"".join(held), blocks)
        if sum(map(len, held)) > MAX_HELD_BYTES:
            raise AnswerBrokenError("The target sends much, but no content.")
    raise AnswerBrokenError("The target's stream ended before its first content.")


def _has_content(block: bytes, target: Target) -> bool:
    for event in split_events(block):
        if (error := error_of(event)) is not None:
            raise _refusal(*error, target)
        if has_content(event):
            return True
    return False


async def _replay(held: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield held
    async for block in rest:
        yield block


async def _only(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _repaired(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    normalizer = stream_normalizer.StreamNormalizer()
    async for block in blocks:
        if shown := normalizer.feed(block):
            yield shown
    if shown := normalizer.end():
        yield shown


async def _read_all(pieces: AsyncIterator[bytes]) -> bytes:
    parts: list[bytes] = []
    num_bytes = 0
    async for piece in pieces:
        parts.append(piece)
        num_bytes += len(piece)
        if num_bytes > MAX_BODY_BYTES:
            raise AnswerBrokenError("The target's answer is too large.")
    return b"".join(parts)
