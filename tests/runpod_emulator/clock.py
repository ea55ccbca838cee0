"""The platform's time: faster than ours if wanted, and with jumps."""

import asyncio
import time
from datetime import UTC, datetime


class Clock:
    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._ahead = 0.0
        self._epoch = time.time() - self.now()

    def now(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic() * self.speed + self._ahead

    def date(self, moment: float) -> datetime:
        """A moment of this clock in the calendar, as if time had always passed as it does here."""
        return datetime.fromtimestamp(self._epoch + moment, UTC)

    def advance(self, seconds: float) -> None:
        """Let time pass at once. Deadlines are looked at again within a tick; sleepers sleep on."""
        self._ahead += seconds

    def real(self, seconds: float) -> float:
        """How long so many of the platform's seconds take here."""
        return seconds / self.speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(self.real(seconds))
