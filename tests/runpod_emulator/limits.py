"""How often a client may call [DOC], and when the queue is too long [ISS]. Pure."""

from collections import defaultdict, deque
from typing import NamedTuple

WINDOW = 10.0  # seconds


class Limit(NamedTuple):
    per_window: int
    concurrent: int | None
    per_worker: int = 0  # for each running worker, if that is more


READING = Limit(2000, 400, 400)
LIMITS = {
    "runsync": READING,
    "status": READING,
    "status-sync": READING,
    "stream": READING,
    "openai": READING,
    "run": Limit(1000, 200, 200),
    "cancel": Limit(100, 20),
    "purge-queue": Limit(2, None),
    "requests": Limit(10, 2),
}


class RateLimiter:
    def __init__(self, is_on: bool) -> None:
        self._is_on = is_on
        self._calls: dict[str, deque[float]] = defaultdict(deque)
        self._open: dict[str, int] = defaultdict(int)

    def enter(self, call: str, now: float, num_running_workers: int) -> float:
        """Seconds to wait before the call may be tried again; 0 if it may go on, until `leave`."""
        limit, calls = LIMITS.get(call), self._calls[call]
        while calls and now - calls[0] >= WINDOW:
            calls.popleft()
        if self._is_on and limit is not None:
            scaled = limit.per_worker * num_running_workers
            if len(calls) >= max(limit.per_window, scaled):
                return WINDOW - (now - calls[0])
            if limit.concurrent is not None and self._open[call] >= max(limit.concurrent, scaled):
                return 1.0
        calls.append(now)
        self._open[call] += 1
        return 0.0

    def leave(self, call: str) -> None:
        self._open[call] -= 1


def queue_is_full(num_waiting: int, max_workers: int) -> bool:
    return num_waiting > 50 and num_waiting > 500 * max_workers
