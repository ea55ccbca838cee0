"""What happened, in order; and the bell that wakes the tasks that wait for something to happen.

Every change of the platform's state is an event, so "wait until" is: look again after each event.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .clock import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    number: int
    time: float  # seconds of the platform's clock
    name: str
    job_id: str = ""
    worker_id: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, [f"{self.time:.2f}", self.name, self.job_id, self.worker_id, self.detail]))


class EventLog:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.events: list[Event] = []
        self.listener: Callable[[Event], None] | None = None
        self._bell = asyncio.Event()

    def note(self, name: str, *, job_id: str = "", worker_id: str = "", detail: str = "") -> None:
        event = Event(len(self.events), self.clock.now(), name, job_id, worker_id, detail)
        self.events.append(event)
        if self.listener is not None:
            self.listener(event)
        self.ring()

    def ring(self) -> None:
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()

    def find(self, name: str, *, job_id: str = "", worker_id: str = "") -> list[Event]:
        """All events of that name, of that job and worker if given."""
        return [
            event
            for event in self.events
            if event.name == name and job_id in ("", event.job_id) and worker_id in ("", event.worker_id)
        ]

    async def until(self, condition: Callable[[], T], wait: float) -> T | None:
        """The condition's first true value; None if there is none in `wait` seconds of the platform's clock."""
        try:
            async with asyncio.timeout(self.clock.real(wait)):
                while not (value := condition()):
                    await self._bell.wait()
                return value
        except TimeoutError:
            return None
