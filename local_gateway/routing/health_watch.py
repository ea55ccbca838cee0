"""Watching a target while a request waits for it: is one of its workers starting?"""

import asyncio
import logging
from types import TracebackType
from typing import Self

from local_gateway.routing.target import Target
from local_gateway.telemetry import live_requests
from local_gateway.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0  # between two looks at the same target
WITHOUT_WORKERS = ("openai",)


class ColdStartProbe:
    """A context around the wait for one target's first content. Looks at the target when it takes long.

    `is_cold` says whether the target had no ready worker at one of the looks.
    """

    def __init__(self, target: Target, metrics: Metrics, patience: float) -> None:
        self._target = target
        self._metrics = metrics
        self._patience = patience  # seconds until the first look
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._start = 0.0
        self.name = target.name
        self.detail = ""  # how the target was at the last look, for people
        self.is_cold = False

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._start = loop.time()
        if self._target.settings.type not in WITHOUT_WORKERS:
            self._timer = loop.call_later(self._patience, self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
            if self.is_cold:
                self._metrics.cold_start(self._target.name, asyncio.get_running_loop().time() - self._start)

    def _begin(self) -> None:
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            health = await self._target.backend.health()
            self.detail = health.detail
            if health.num_ready_workers == 0:
                self.is_cold = True
                live_requests.found_cold(self._target.name)
            self._metrics.endpoint_health(self._target.name, health)
            waited = asyncio.get_running_loop().time() - self._start
            log.info(
                "target %s: waiting for %.0f s; %s", self._target.name, waited, health.detail,
                extra={"target": self._target.name},
            )  # fmt: skip
            await asyncio.sleep(LOOK_SECONDS)
