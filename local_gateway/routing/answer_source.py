"""The seam of the answer pipeline: a routed request goes in, an answer that has begun comes out.

The dispatcher is the innermost source. Each further part of the pipeline (cold-start fallback, sharing) wraps a source
and is one itself, so that gateway.py composes them in one line.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from local_gateway.edge.client_request import ClientRequest
from local_gateway.routing.router import Route
from local_gateway.wire.answer import Answer


@dataclass(frozen=True, slots=True)
class RoutedRequest:
    """A client's request, and the route that answers it."""

    route: Route
    request: ClientRequest
    who: str = ""  # the id of the key; empty: the gateway has no keys
    no_store: bool = False  # the client wants nothing shared and nothing kept
    covers: Callable[[int], bool] = lambda _: True  # whether its key can pay for so many calls of targets

    def along(self, route: Route) -> "RoutedRequest":
        """The same request by another route."""
        return replace(self, route=route)


class AnswerSource(Protocol):
    async def answer(self, routed: RoutedRequest) -> Answer:
        """The answer, when its first content is there; its receiver closes it.

        Raises a RequestError if there is none. Cancelled, it leaves nothing running for this request at any target.
        """
        ...


async def discard(answering: Sequence[asyncio.Task[Answer]]) -> None:
    """Cancel them, and close the answers of those that have one already. Returns when nothing of them goes on."""
    for task in answering:
        task.cancel()
    for ended in await asyncio.gather(*answering, return_exceptions=True):
        if isinstance(ended, Answer):
            await ended.aclose()
