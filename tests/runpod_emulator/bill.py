"""What an endpoint's workers are billed for: each run, from its start until it has stopped. Pure: time comes in.

A start is when the container starts [DOC]: what passes before, for a machine and the image, is free. A frozen worker is
scaled down, so it costs nothing [UNK], and thawing it is a start.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Run:
    worker_id: str
    started: float
    ended: float | None = None


class Bill:
    def __init__(self) -> None:
        self.runs: list[Run] = []  # in the order in which they began
        self._open: dict[str, Run] = {}

    def began(self, worker_id: str, now: float) -> None:
        self._open[worker_id] = run = Run(worker_id, now)
        self.runs.append(run)

    def ended(self, worker_id: str, now: float) -> None:
        """A worker that never began, or has ended, stays as it is."""
        if run := self._open.pop(worker_id, None):
            run.ended = now

    def started(self, worker_id: str) -> float | None:
        """When the run of this worker began that is not over; None: there is none."""
        run = self._open.get(worker_id)
        return run.started if run else None

    def seconds(self, now: float) -> Iterator[int]:
        """Of each run, rounded up [DOC]."""
        for run in self.runs:
            yield math.ceil((now if run.ended is None else run.ended) - run.started)
