"""Another model answers while a worker starts: `cold_start` in gateway.yaml.

The request that found the worker cold goes on in the background until its first content, so that the worker starts
although no client waits for it any more. Meanwhile further requests go straight to the other model. With
`wake: cheaper` they do so before as well, while no worker runs and that costs less than a start.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from local_gateway.errors import RequestError
from local_gateway.routing.answer_source import AnswerSource, RoutedRequest, discard
from local_gateway.routing.diverted_answers import is_waking_cheaper
from local_gateway.routing.router import Route
from local_gateway.routing.target import Target
from local_gateway.wire.answer import Answer

log = logging.getLogger(__name__)

Answering = asyncio.Task[Answer]


class ColdStartFallback:
    """An AnswerSource around another: it races a slow first target of a route against the fallback model.

    Owns the warm-up tasks (one per target, held by the target). Knows nothing of how an answer is made.
    """

    def __init__(self, source: AnswerSource, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock

    async def answer(self, routed: RoutedRequest) -> Answer:
        """The answer of the route, or of its fallback model if that is there first. Raises RequestError if neither."""
        cold, other = routed.route.settings.cold_start, routed.route.while_cold
        if cold is None or other is None:
            return await self._source.answer(routed)
        target = routed.route.targets[0]
        if target.warm_up is not None:
            return await self._other_first(routed, other)
        if cold.wake == "cheaper" and self._is_better_asleep(target):
            return await self._divert(routed, other, target)
        return await self._race(routed, cold.after, other, target)

    async def _other_first(self, routed: RoutedRequest, other: Route) -> Answer:
        try:
            return await self._source.answer(routed.along(other))
        except RequestError as error:
            log.warning("the cold-start model %s did not answer: %s", other.model, error.log_text)
            return await self._source.answer(routed)

    def _is_better_asleep(self, target: Target) -> bool:
        """No worker runs, and none is worth its start yet. Once one is, one request wakes it."""
        watch = target.worker_watch
        if watch is None or watch.runs.num_running != 0:
            return False
        if is_waking_cheaper(target.diverted, watch.runs, self._clock()):
            log.info("target %s: is woken: to go on without it has cost as much as a start", target.name)
            target.diverted.clear()
            return False
        watch.request_diverted()
        return True

    async def _divert(self, routed: RoutedRequest, other: Route, target: Target) -> Answer:
        began = self._clock()
        answer = await self._other_first(routed, other)
        if answer.origin.target not in {each.name for each in routed.route.targets}:
            answer.origin.on_charged = partial(self._note_diverted, target, began)
        return answer

    def _note_diverted(self, target: Target, began: float, cost: float) -> None:
        target.diverted.note(began, self._clock(), cost)

    async def _race(self, routed: RoutedRequest, after: float, other: Route, target: Target) -> Answer:
        first = asyncio.create_task(self._source.answer(routed))
        runners = [first]
        try:
            await asyncio.wait(runners, timeout=after)
            if not first.done():
                runners.append(asyncio.create_task(self._source.answer(routed.along(other))))
            winner = await _first_answer(runners)
            if not first.done() and target.warm_up is None:
                target.warm_up = asyncio.create_task(_warm_up(target, first))
                runners.remove(first)
            runners.remove(winner)
            return winner.result()
        finally:
            await discard(runners)


async def _warm_up(target: Target, answering: Answering) -> None:
    """Wait for the first content, which no client reads; then the worker is there."""
    try:
        await asyncio.wait([answering])
        log.info("target %s: %s", target.name, "still not there" if answering.exception() else "its worker is ready")
    finally:
        target.warm_up = None
        await discard([answering])


async def _first_answer(runners: list[Answering]) -> Answering:
    """The first that has an answer; the first of all if none has one."""
    waiting = set(runners)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for runner in done:
            if runner.exception() is None:
                return runner
    return runners[0]
