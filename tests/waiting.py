"""Waiting for what another thread or process brings about. A leaf: imports nothing of the two programs."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 60.0  # seconds until a test that waits fails
INTERVAL = 0.002  # seconds between two looks

T = TypeVar("T")


async def eventually(condition: Callable[[], T], seconds: float = PATIENCE) -> T:
    """The condition's first true value; fails with TimeoutError if there is none. No event of this loop tells it."""
    async with asyncio.timeout(seconds):
        while not (value := condition()):  # noqa: ASYNC110  # it comes from another thread or process
            await asyncio.sleep(INTERVAL)
        return value
