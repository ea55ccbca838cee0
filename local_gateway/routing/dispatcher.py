"""A request and its route → an answer: targets are asked in turn until one gives its first content.

Until then nothing is promised to the client, so that failover to the next target goes unnoticed and an error keeps its
status. Knows nothing of clients, keys and money.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from http import HTTPStatus

from local_gateway.backends.base import Upstream
from local_gateway.config.settings import GatewaySettings
from local_gateway.edge.client_request import ClientRequest, dump
from local_gateway.errors import (
    GatewayExhaustedError,
    RequestError,
    TargetConfigError,
    TargetError,
    TargetPausedError,
    TargetRefusedError,
    TargetTimeoutError,
)
from local_gateway.routing.answer_source import RoutedRequest
from local_gateway.routing.health_watch import ColdStartProbe
from local_gateway.routing.idle_limit import IdleLimit
from local_gateway.routing.retry_plan import RetryPlan
from local_gateway.routing.router import Choice, Route
from local_gateway.routing.target import Target
from local_gateway.routing.upstream_call import STREAM_OPTIONS, adds_stream_options, call_for
from local_gateway.telemetry import live_requests
from local_gateway.telemetry.metrics import Metrics
from local_gateway.wire.answer import Answer, Origin
from local_gateway.wire.answer_reader import ReadAnswer, Wanted, read_answer, read_error
from local_gateway.wire.call_ledger import CallTally, ExecutionStats
from local_gateway.wire.error_body import NO_MODEL, is_too_long
from local_gateway.wire.retry_after import retry_after_of
from local_gateway.wire.translation import PATHS, Translation, api_of

log = logging.getLogger(__name__)

UNKNOWN_PATH, NO_SUCH_MODEL = "unknown_url", "model_not_found"  # codes of OpenAI's 404s
ADDED_NAMES = ("streamoptions", "includeusage")  # of what the gateway adds, however a target writes them
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
        route = routed.route
        plan = RetryPlan(
            route.order(self._rng),
            self._retry,
            self._clock() + (route.settings.timeouts.total or self._timeouts.total),
            self._clock,
            self._rng,
            for_long_requests=route.order_for_long_requests(self._rng),
        )
        num_failed = 0
        while (step := plan.next()) is not None:
            if not routed.covers(routed.request.calls.num_worked + 1):
                log.info("no further target is asked: what is left of the key's budget may not be enough")
                break
            if step.delay > 0:
                await asyncio.sleep(step.delay)
            try:
                answer = await self._try_without_what_it_lacks(step.choice, routed, plan.deadline)
            except RequestError as error:
                if not isinstance(error, TargetPausedError):  # that one was not asked
                    num_failed += 1
                    error.target, error.num_attempts = step.choice.target.name, num_failed
                    self._note_failure(step.choice.target, error)
                plan.failed(step.choice, error)
                is_about_request = error.is_about_request or _client_chose_it(error, step.choice, route)
                if is_about_request and not error.is_too_long and step.choice.target in route.targets:
                    plan.keep_to(route.targets)
            else:
                answer.origin.num_attempts = num_failed + 1
                return answer
        raise plan.error()

    async def _try(self, choice: Choice, routed: RoutedRequest, deadline: float) -> Answer:
        """One target, to its first content. What was opened is closed with the answer, or here."""
        target = choice.target
        live_requests.asking(target.name)
        async with AsyncExitStack() as stack:
            attempt = stack.enter_context(target.attempt(choice.model_name))
            tally = stack.enter_context(routed.request.calls.begin(target.name, target.settings.price))
            stack.enter_context(_own_field_is_no_failure(routed.request, target))
            with _begun_jobs_cost(target, tally), ColdStartProbe(target, self._metrics, self._timeouts.probe) as watch:
                async with _limit(deadline - self._clock(), watch):
                    request, translation = _translated(routed.request, target)
                    call = call_for(request, choice, who=routed.who, tally=tally)
                    upstream = await target.backend.open(call)
                    stack.push_async_callback(upstream.aclose)
                    await _refuse_errors(upstream, target)
                    pieces = IdleLimit(aiter(upstream), routed.route.settings.timeouts.idle or self._timeouts.idle)
                    stack.callback(pieces.close)
                    read = await _begin(pieces, upstream.headers, target, request)
                    read = translation.answer(read) if translation else read
            attempt.succeeded()
            origin = Origin(
                target.name, target.settings.price, endpoint=target.endpoint, is_cold=watch.is_cold, call=tally
            )
            headers = _headers(upstream) | {"content-type": read.content_type}
            return Answer(upstream.status, headers, TargetBody(read.blocks, upstream, stack.pop_all()), origin)
        raise AssertionError("unreachable: the stack swallows nothing")

    async def _try_without_what_it_lacks(self, choice: Choice, routed: RoutedRequest, deadline: float) -> Answer:
        """A target that refuses the field that the gateway added, or has no path for an API that can be translated, is
        asked once more without it, and from then on."""
        target = choice.target
        # As they are now: another request may learn the same meanwhile.
        is_native = _is_native(routed.request, target)
        adds_options = _adds_options(routed.request, target)
        try:
            return await self._try(choice, routed, deadline)
        except TargetRefusedError as error:
            if is_native and _lacks_path(error):
                api = api_of(routed.request.path)
                target.lacked_apis.add(api)
                log.info("target %s: has no path for %s; it is sent chats instead", target.name, api)
            elif adds_options and _is_about_stream_options(error):
                target.refused_fields.add(STREAM_OPTIONS)
                log.info("target %s: refuses %s; it is not sent them again", target.name, STREAM_OPTIONS)
            else:
                raise
        return await self._try(choice, routed, deadline)

    def _note_failure(self, target: Target, error: RequestError) -> None:
        if error.is_clients_fault:
            return
        if error.outcome is not None:
            self._metrics.attempt_failed(target.name, error)
        level = logging.ERROR if isinstance(error, TargetConfigError | GatewayExhaustedError) else logging.WARNING
        log.log(level, "target %s: %s", target.name, error.log_text, extra={"target": target.name})


def _client_chose_it(error: RequestError, choice: Choice, route: Route) -> bool:
    """Whether a 404 is about a name of the client's own: a path, or a model where the configuration has a pattern.

    Other 404s are a mistake of the configuration, or an endpoint or a model that is gone: fallbacks are for those.
    """
    if not isinstance(error, TargetRefusedError) or error.status != HTTPStatus.NOT_FOUND:
        return False
    if _lacks_path(error):
        return True
    is_clients_model = route.alias.endswith("*") and not choice.target.settings.model
    return is_clients_model and (error.error.get("code") == NO_SUCH_MODEL or NO_MODEL.search(str(error)) is not None)


def _lacks_path(error: TargetRefusedError) -> bool:
    """Whether the target says, in OpenAI's words, that it has no such path."""
    return error.status == HTTPStatus.NOT_FOUND and error.error.get("code") == UNKNOWN_PATH


def _is_native(request: ClientRequest, target: Target) -> bool:
    """Whether the target is asked in an API that could be translated for it."""
    if request.path not in PATHS or request.body is None:
        return False
    api = api_of(request.path)
    return not (target.settings.translates(api) or api in target.lacked_apis)


def _translated(request: ClientRequest, target: Target) -> tuple[ClientRequest, Translation | None]:
    """The request in an API that the target has. Raises InvalidRequestError for what that cannot say."""
    if request.path not in PATHS or request.body is None or _is_native(request, target):
        return request, None
    translation = Translation(request.path, request.body)
    return replace(request, path=translation.path, body=translation.chat, raw=dump(translation.chat)), translation


async def _begin(
    pieces: AsyncIterator[bytes], headers: Mapping[str, str], target: Target, request: ClientRequest
) -> ReadAnswer:
    """The body in the form that the client asked for, when its first content is there. Raises TargetError."""
    wanted = Wanted(path=request.path, is_stream=request.is_stream, normalize=target.settings.normalize)
    try:
        return await read_answer(pieces, headers.get("content-type", ""), wanted)
    except TargetRefusedError as error:  # an error with the status of a success
        raise _refusal(error.status, error.error, target, retry_after=error.retry_after) from None


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


@contextmanager
def _begun_jobs_cost(target: Target, tally: CallTally) -> Iterator[None]:
    """A job that a worker took and failed was paid for, and would mostly fail again: it is begun once more at most."""
    try:
        yield
    except TargetError as error:
        is_begun = target.settings.type == "runpod_queue" and tally.is_started
        if is_begun and error.outcome == "failed" and error.retry == "anywhere":
            error.retry = "once"
        raise


class _limit:  # noqa: N801 (used like asyncio.timeout, which it is but for the error)
    """asyncio.timeout with the gateway's error, which says how the target was at the last look."""

    def __init__(self, seconds: float, watch: ColdStartProbe) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._watch = watch

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *args: object) -> None:
        try:
            await self._timeout.__aexit__(*args)  # type: ignore[arg-type]  # what came in goes on as it is
        except TimeoutError:
            detail = f" ({self._watch.detail})" if self._watch.detail else ""
            raise TargetTimeoutError(f"The target {self._watch.name} did not answer in time{detail}.") from None


async def _refuse_errors(upstream: Upstream, target: Target) -> None:
    """An answer that is an error is raised as one. Raises TargetConfigError, TargetRefusedError."""
    if upstream.status >= 400:
        error = (await read_error(aiter(upstream), upstream.status)).error
        raise _refusal(upstream.status, error, target, retry_after_of(upstream.headers))


def _refusal(
    status: int, error: dict[str, object], target: Target, retry_after: float | None = None
) -> TargetConfigError | TargetRefusedError:
    if status in OUR_ACCOUNT:  # its text is not for clients, and may repeat a part of our key
        return TargetConfigError(f"The target {target.name} does not accept the gateway's key or account.")
    return TargetRefusedError(status, error, retry_after=retry_after, is_too_long=is_too_long(error))


def _adds_options(request: ClientRequest, target: Target) -> bool:
    """Whether it is the gateway that asks this target for the token counts of the stream."""
    return adds_stream_options(request, target) and STREAM_OPTIONS not in (request.body or {})


@contextmanager
def _own_field_is_no_failure(request: ClientRequest, target: Target) -> Iterator[None]:
    """A target that refuses the field that the gateway added, with whatever status, is well."""
    adds_options = _adds_options(request, target)
    try:
        yield
    except TargetRefusedError as error:
        if adds_options and _is_about_stream_options(error):
            error.outcome = None
        raise


def _is_about_stream_options(error: TargetRefusedError) -> bool:
    """Whether a target that answered so does not know `stream_options`, or not `include_usage` in it."""
    said = f"{error} {error.error}".replace("_", "").lower()
    return error.status != HTTPStatus.TOO_MANY_REQUESTS and any(name in said for name in ADDED_NAMES)
