"""How long the stages of a start take, for the log: a cold start's latency, stage by stage."""

import os
import time
from pathlib import Path

STAT = Path("/proc/self/stat")
START_TICKS = 19  # of the fields behind the program's name: when the process began, in ticks since the machine did


class Stopwatch:
    """Laps of one stretch of work, in their order; in seconds."""

    def __init__(self, started: float | None = None) -> None:
        """`started` is of the monotonic clock; now, if it is not given."""
        self._started = self._last = time.monotonic() if started is None else started
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """What has been done since the last lap was this."""
        now = time.monotonic()
        self._laps[name] = now - self._last
        self._last = now

    def __str__(self) -> str:
        laps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self._laps.items())
        return f"{self._last - self._started:.2f} s ({laps})"


def process_started() -> float:
    """When this process began, by the monotonic clock; now, where the system does not say."""
    now = time.monotonic()
    try:
        fields = STAT.read_text().rpartition(")")[2].split()
        started = int(fields[START_TICKS]) / os.sysconf("SC_CLK_TCK")
        return now - max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, AttributeError, ValueError, IndexError):
        return now
