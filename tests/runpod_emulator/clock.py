"""The platform's time: faster than ours if wanted, and with jumps."""

import asyncio
import time


class Clock:
    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._ahead = 0.0

    def now(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic() * self.speed + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass at once. Deadlines are looked at again within a tick; sleepers sleep on."""
        self._ahead += seconds

    def real(self, seconds: float) -> float:
        """How long so many of the platform's seconds take here."""
        return seconds / self.speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(self.real(seconds))
