"""A limit on calls in a stretch of time, as RunPod has it."""

from collections import deque


class RateWindow:
    """At most `max_calls` in any `seconds`. Pure: time comes in as an argument."""

    def __init__(self, max_calls: int, seconds: float) -> None:
        self._max_calls = max_calls
        self._seconds = seconds
        self._calls: deque[float] = deque()

    def enter(self, now: float) -> float:
        """Seconds to wait before trying again; 0 if the call may be made now, and is counted."""
        while self._calls and now - self._calls[0] >= self._seconds:
            self._calls.popleft()
        if len(self._calls) >= self._max_calls:
            return self._seconds - (now - self._calls[0])
        self._calls.append(now)
        return 0.0
