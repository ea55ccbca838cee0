"""Another model answers while a worker starts: `cold_start` in gateway.yaml.

The request that found the worker cold goes on in the background until its first content, so that the worker starts
although no client waits for it any more. Meanwhile further requests go straight to the other model.
"""

import asyncio
import logging

from local_gateway.errors import RequestError
from local_gateway.routing.answer_source import AnswerSource, RoutedRequest, discard
from local_gateway.routing.router import Route
from local_gateway.routing.target import Target
from local_gateway.wire.answer import Answer

log = logging.getLogger(__name__)

Answering = asyncio.Task[Answer]


class ColdStartFallback:
    """An AnswerSource around another: it races a slow first target of a route against the fallback model.

    Owns the warm-up tasks (one per target, held by the target). Knows nothing of how an answer is made.
    """

    def __init__(self, source: AnswerSource) -> None:
        self._source = source

    async def answer(self, routed: RoutedRequest) -> Answer:
        """The answer of the route, or of its fallback model if that is there first. Raises RequestError if neither."""
        cold, other = routed.route.settings.cold_start, routed.route.while_cold
        if cold is None or other is None:
            return await self._source.answer(routed)
        target = routed.route.targets[0]
        if target.warm_up is not None:
            return await self._while_warming(routed, other)
        return await self._race(routed, cold.after, other, target)

    async def _while_warming(self, routed: RoutedRequest, other: Route) -> Answer:
        try:
            return await self._source.answer(routed.along(other))
        except RequestError as error:
            log.warning("the cold-start model %s did not answer: %s", other.model, error.log_text)
            return await self._source.answer(routed)

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
