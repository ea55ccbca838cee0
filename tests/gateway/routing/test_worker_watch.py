"""Watching an endpoint's workers: when it is looked, and what becomes of it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from local_gateway.accounts.worker_runs import WorkerRun, WorkerRuns
from local_gateway.errors import TargetRefusedError, TargetUnreachableError
from local_gateway.routing.worker_watch import ASLEEP, CALM, EAGER, EAGER_FOR, WorkerWatch, pause_before_look
from local_gateway.wire.worker_list import SeenWorker

W1 = SeenWorker("w1", 1000.0, 5.0, True)


@pytest.mark.parametrize(
    ("since_request", "num_running", "num_failures", "pause"),
    [
        (0, 0, 0, EAGER),
        (EAGER_FOR, None, 1, EAGER),
        (0, None, 2, 2 * EAGER),
        (0, None, 1000, ASLEEP),
        (EAGER_FOR + 1, 2, 0, CALM),
        (EAGER_FOR + 1, None, 1, CALM),
        (EAGER_FOR + 1, 0, 0, ASLEEP),
    ],
)
def test_how_soon_it_looks_again(
    since_request: float, num_running: int | None, num_failures: int, pause: float
) -> None:
    """Eagerly where seconds are about to begin or end; seldom where nothing can change unnoticed, or looks fail."""
    assert pause_before_look(since_request, num_running, num_failures) == pause


class PlayedEndpoint:
    """Each look is answered by the test, and time passes when it says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.notes: list[Sequence[WorkerRun]] = []
        self.looks: asyncio.Queue[list[SeenWorker] | Exception] = asyncio.Queue()
        self.pauses: asyncio.Queue[float] = asyncio.Queue()
        self.rested = asyncio.Event()
        self.watch = WorkerWatch(
            WorkerRuns("ep", 1.0), self._look, self.notes.append, clock=lambda: self.now, wait=self._wait
        )

    async def _look(self) -> list[SeenWorker]:
        answer = await self.looks.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _wait(self, wake: asyncio.Event, seconds: float) -> None:
        self.pauses.put_nowait(seconds)
        waking, resting = asyncio.create_task(wake.wait()), asyncio.create_task(self.rested.wait())
        await asyncio.wait([waking, resting], return_when=asyncio.FIRST_COMPLETED)
        waking.cancel()
        resting.cancel()

    async def look(self, answer: list[SeenWorker] | Exception) -> float:
        """Answer the next look; the seconds until the one after."""
        self.looks.put_nowait(answer)
        pause = await self.pauses.get()
        self.now += pause
        return pause

    async def rest(self) -> None:
        """The pause is over."""
        self.rested.set()
        await asyncio.sleep(0)
        self.rested.clear()


@asynccontextmanager
async def watching() -> AsyncIterator[PlayedEndpoint]:
    endpoint = PlayedEndpoint()
    endpoint.watch.start()
    endpoint.watch.start()
    async with asyncio.timeout(20):
        yield endpoint
        await endpoint.watch.aclose()


async def test_a_request_wakes_it() -> None:
    """While no worker runs it sleeps; from a request on it looks eagerly, and after that for a minute."""
    async with watching() as endpoint:
        assert await endpoint.look([]) == ASLEEP
        endpoint.watch.request_began()
        assert await endpoint.look([W1]) == EAGER
        endpoint.watch.request_ended()
        await endpoint.rest()
        assert await endpoint.look([W1]) == EAGER
        endpoint.now += EAGER_FOR
        await endpoint.rest()
        assert await endpoint.look([W1]) == CALM

    assert [[run.seconds for run in runs] for runs in endpoint.notes] == [[], [5.0], [5.0], [5.0]]


async def test_looks_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    """They are said once, are repeated ever later, and leave RunPod alone for as long as it asks."""
    caplog.set_level(logging.INFO)
    async with watching() as endpoint:
        endpoint.watch.request_began()
        assert await endpoint.look(TargetUnreachableError("down")) == EAGER
        await endpoint.rest()
        assert await endpoint.look(TargetUnreachableError("down")) == 2 * EAGER
        await endpoint.rest()
        assert await endpoint.look(TargetRefusedError(429, {"message": "slow"}, retry_after=40.0)) == 40.0
        assert endpoint.watch.runs.num_running is None
        await endpoint.rest()
        assert await endpoint.look([]) == EAGER

    levels = [(record.levelname, "ep" in record.message) for record in caplog.records]
    assert levels == [("WARNING", True), ("INFO", True)]


async def test_it_ends_in_the_middle_of_a_look() -> None:
    """As when the gateway is stopped; one that was never started ends too."""
    async with watching():
        pass
    await PlayedEndpoint().watch.aclose()
