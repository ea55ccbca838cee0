"""Which endpoints are watched: each RunPod endpoint with a `worker_price`, once."""

import asyncio
from collections.abc import Callable, Iterable

from local_gateway.config.settings import RunpodTarget
from local_gateway.routing.target import Target
from local_gateway.routing.worker_watch import WorkerWatch

MakeWatch = Callable[[RunpodTarget], WorkerWatch]
Place = tuple[str, str, str, float]  # what a watch depends on: endpoint, address, key and price


class WorkerWatches:
    """One WorkerWatch for each endpoint, however many targets share it. Lives in the event loop."""

    def __init__(self, make_watch: MakeWatch) -> None:
        self._make_watch = make_watch
        self._watches: dict[str, tuple[Place, WorkerWatch]] = {}  # by endpoint
        self._ending: set[asyncio.Task[None]] = set()

    def attach(self, targets: Iterable[Target]) -> None:
        """Give these targets the watches of their endpoints. A watch that none of them needs any more ends."""
        before, self._watches = self._watches, {}
        all_targets = list(targets)
        for target in all_targets:
            settings = target.settings
            if isinstance(settings, RunpodTarget) and settings.worker_price and target.endpoint not in self._watches:
                self._watches[target.endpoint] = self._watch_of(settings, before.get(target.endpoint))
        for target in all_targets:
            _, target.worker_watch = self._watches.get(target.endpoint, (None, None))
        kept = [watch for _, watch in self._watches.values()]
        for _, watch in before.values():
            if watch not in kept:
                ending = asyncio.create_task(watch.aclose())
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)

    def start(self) -> None:
        """May be repeated: those that look already go on."""
        for _, watch in self._watches.values():
            watch.start()

    async def aclose(self) -> None:
        await asyncio.gather(*self._ending, *(watch.aclose() for _, watch in self._watches.values()))

    def _watch_of(self, settings: RunpodTarget, before: tuple[Place, WorkerWatch] | None) -> tuple[Place, WorkerWatch]:
        key = settings.api_key.get_secret_value()
        place = (settings.endpoint_id, settings.rest_url, key, settings.worker_price)
        return before if before and before[0] == place else (place, self._make_watch(settings))
