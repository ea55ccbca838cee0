"""Another model answers while a worker starts: `cold_start` in gateway.yaml.

The request that found the worker cold goes on in the background until its first content, so that the worker starts
although nobody waits for it any more. Meanwhile further requests go straight to the other model.
"""

import asyncio
import logging

from local_gateway.config.settings import ColdStart
from local_gateway.edge.client_request import ClientRequest
from local_gateway.errors import RequestError
from local_gateway.routing.dispatcher import Dispatcher
from local_gateway.routing.router import Route, Router
from local_gateway.routing.target import Target
from local_gateway.wire.answer import Answer

log = logging.getLogger(__name__)

Answering = asyncio.Task[Answer]


class ColdStartFallback:
    def __init__(self, dispatcher: Dispatcher, router: Router) -> None:
        self._dispatcher = dispatcher
        self._router = router

    async def answer(self, route: Route, request: ClientRequest, scope: str) -> Answer:
        """The answer of the route, or of its stand-in if that is there first. Raises RequestError if there is none."""
        cold = route.settings.cold_start
        if cold is None:
            return await self._dispatcher.answer(route, request, scope)
        target = route.targets[0]
        if target.warm_up is not None:
            return await self._instead(route, cold, request, scope)
        return await self._race(route, cold, request, scope, target)

    async def _instead(self, route: Route, cold: ColdStart, request: ClientRequest, scope: str) -> Answer:
        try:
            return await self._dispatcher.answer(self._router.resolve(cold.use), request, scope)
        except RequestError as error:
            log.warning("the stand-in %s did not answer: %s", cold.use, error.log_text)
            return await self._dispatcher.answer(route, request, scope)

    async def _race(self, route: Route, cold: ColdStart, request: ClientRequest, scope: str, target: Target) -> Answer:
        first = asyncio.create_task(self._dispatcher.answer(route, request, scope))
        runners = [first]
        try:
            await asyncio.wait(runners, timeout=cold.after)
            if not first.done():
                other = self._dispatcher.answer(self._router.resolve(cold.use), request, scope)
                runners.append(asyncio.create_task(other))
            winner = await _first_answer(runners)
            if not first.done() and target.warm_up is None:
                target.warm_up = asyncio.create_task(_warm_up(target, first))
                runners.remove(first)
            runners.remove(winner)
            return winner.result()
        finally:
            await abandon(runners)


async def _warm_up(target: Target, answering: Answering) -> None:
    """Wait for the first content, which nobody reads; then the worker is there."""
    try:
        await asyncio.wait([answering])
        log.info("target %s: %s", target.name, "still not there" if answering.exception() else "its worker is ready")
    finally:
        target.warm_up = None
        await abandon([answering])


async def _first_answer(runners: list[Answering]) -> Answering:
    """The first that has an answer; the first of all if none has one."""
    waiting = set(runners)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for runner in done:
            if runner.exception() is None:
                return runner
    return runners[0]


async def abandon(runners: list[Answering]) -> None:
    """Nothing of them goes on."""
    for runner in runners:
        runner.cancel()
    for ended in await asyncio.gather(*runners, return_exceptions=True):
        if isinstance(ended, Answer):
            await ended.aclose()
