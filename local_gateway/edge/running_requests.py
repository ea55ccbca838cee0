"""The requests that are being answered, so that all of them can be ended when the gateway is stopped."""

import asyncio
from typing import Protocol


class Running(Protocol):
    def stop(self, *, at_once: bool) -> None:
        """End the request with an error that the client is told. With `at_once` no target is asked anything more."""
        ...


class RunningRequests:
    """Belongs to the event loop. Knows nothing of what a request is, but that it can be stopped."""

    def __init__(self) -> None:
        self._running: set[Running] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()

    def __len__(self) -> int:
        return len(self._running)

    def add(self, running: Running) -> None:
        self._running.add(running)
        self._none_left.clear()

    def remove(self, running: Running) -> None:
        """After its record is written: then it is over."""
        self._running.discard(running)
        if not self._running:
            self._none_left.set()

    def stop(self, *, at_once: bool) -> None:
        for running in list(self._running):
            running.stop(at_once=at_once)

    async def over(self, seconds: float) -> bool:
        """Returns when none is left, or after that time; whether none is."""
        try:
            async with asyncio.timeout(seconds):
                await self._none_left.wait()
        except TimeoutError:
            return False
        return True
