"""How the targets are, while a page is open: each is asked again after a while, in the background."""

import asyncio
from collections.abc import Callable, Iterable

from local_gateway.backends.base import Health
from local_gateway.routing.target import Target

KEEP_SECONDS = 15.0


class HealthBoard:
    """Belongs to the event loop. What it says is at most KEEP_SECONDS and one answer old, or not known yet."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[Target, tuple[float, Health | None]] = {}  # until when, and what
        self._asking: dict[Target, asyncio.Task[None]] = {}

    def look(self, targets: Iterable[Target]) -> dict[Target, Health | None]:
        """What is known of them. Those that were not asked for a while are asked now."""
        looked_at = list(targets)
        for gone in self._known.keys() - set(looked_at):
            del self._known[gone]
        for target in looked_at:
            until, _ = self._known.get(target, (0.0, None))
            if target not in self._asking and self._clock() >= until:
                self._asking[target] = asyncio.create_task(self._ask(target))
        return {target: self._known.get(target, (0.0, None))[1] for target in looked_at}

    async def _ask(self, target: Target) -> None:
        try:
            health = await target.backend.health()
            self._known[target] = self._clock() + KEEP_SECONDS, health
        finally:
            del self._asking[target]
