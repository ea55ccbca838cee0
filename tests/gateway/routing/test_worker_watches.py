"""Which endpoints are watched, before and after a reload."""

import asyncio
from typing import Any

import pytest

from local_gateway.accounts.worker_runs import WorkerRuns
from local_gateway.config.settings import RunpodTarget
from local_gateway.routing.target import Target
from local_gateway.routing.worker_watch import WorkerWatch
from local_gateway.routing.worker_watches import WorkerWatches
from local_gateway.wire.worker_list import SeenWorker
from tests.gateway.targets.never_asked import FakeClock, target_of


class Watched:
    """A set of watches, and how often each endpoint was looked at."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.looked = asyncio.Event()
        self.watches = WorkerWatches(self._make)

    def _make(self, settings: RunpodTarget) -> WorkerWatch:
        async def look() -> list[SeenWorker]:
            self.looks.append(f"{settings.endpoint_id} {settings.worker_price:g}")
            self.looked.set()
            return []

        return WorkerWatch(WorkerRuns(settings.endpoint_id, settings.worker_price), look, lambda runs: None)


def targets(*settings: dict[str, Any]) -> list[Target]:
    usual = {"type": "runpod_queue", "api_key": "k"}
    return [target_of(FakeClock(), **usual, **each) for each in settings]


@pytest.fixture
def watched() -> Watched:
    return Watched()


async def test_targets_that_share_an_endpoint(watched: Watched) -> None:
    """They share its watch, also where one of them says the price; without a price there is none."""
    all_targets = targets(
        {"endpoint_id": "a"}, {"endpoint_id": "a", "worker_price": 1, "model": "x"}, {"endpoint_id": "b"}
    )

    watched.watches.attach(all_targets)
    first, second, third = [target.worker_watch for target in all_targets]

    assert first is second is not None
    assert third is None


async def test_a_reload(watched: Watched) -> None:
    """An endpoint that stays as it is keeps its watch; another price is another watch, and what is gone ends."""
    before = targets({"endpoint_id": "a", "worker_price": 1}, {"endpoint_id": "b", "worker_price": 1})
    watched.watches.attach(before)
    watched.watches.start()
    await watched.looked.wait()
    after = targets({"endpoint_id": "a", "worker_price": 1}, {"endpoint_id": "b", "worker_price": 2})

    watched.watches.attach(after)
    watched.watches.start()
    await asyncio.sleep(0)
    await watched.watches.aclose()

    assert after[0].worker_watch is before[0].worker_watch
    assert after[1].worker_watch is not before[1].worker_watch
    assert watched.looks == ["a 1", "b 1", "b 2"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_attempt_is_told(watched: Watched) -> None:
    """For as long as it lasts its endpoint is looked at eagerly."""
    (target,) = targets({"endpoint_id": "a", "worker_price": 1})
    watched.watches.attach([target])
    calls: list[str] = []
    watch = target.worker_watch
    assert watch is not None
    watch.request_began = lambda: calls.append("began")  # type: ignore[method-assign]  # a spy
    watch.request_ended = lambda: calls.append("ended")  # type: ignore[method-assign]  # a spy

    with target.attempt("m"):
        calls.append("asked")

    assert calls == ["began", "asked", "ended"]
