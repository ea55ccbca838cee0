"""How long the phases of the engine's steps take, as histograms that cost a microsecond a phase."""

import time
from bisect import bisect_left
from typing import NamedTuple

PHASES = ("schedule", "draft", "fill", "decode", "mask", "wait", "sample", "postprocess", "deliver")
BOUNDS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2, 0.1, 0.3, 1.0, 3.0)  # seconds


class Histogram(NamedTuple):
    """Counts of the times up to each of BOUNDS and above the one before, then of the longer ones; and their total."""

    counts: list[int]
    total: float  # seconds

    @property
    def num_times(self) -> int:
        return sum(self.counts)


class StepTimes:
    """A stopwatch with laps, each of which belongs to the phase that ends with it.

    Owned by the engine loop, which hands it to the runner for the phases in there. Written by the engine thread alone;
    other threads may read meanwhile, and see histograms that are at most a step apart.
    """

    def __init__(self) -> None:
        self._counts = {phase: [0] * (len(BOUNDS) + 1) for phase in PHASES}
        self._totals = dict.fromkeys(PHASES, 0.0)
        self._last = 0.0

    def begin(self) -> None:
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """End a phase, which began with the last lap."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._counts[phase][bisect_left(BOUNDS, seconds)] += 1
        self._totals[phase] += seconds

    def histograms(self) -> dict[str, Histogram]:
        """A copy, by phase."""
        return {phase: Histogram(self._counts[phase].copy(), self._totals[phase]) for phase in PHASES}
