"""A leaky bucket: what a rate limit remembers."""


class LeakyBucket:
    """Holds what was used of a limit per minute, and leaks that much in a minute.

    The limit comes with each call, so that it may change. Times are seconds of any one clock.
    """

    def __init__(self) -> None:
        self._level = 0.0
        self._time = 0.0

    def level(self, limit: int, now: float) -> float:
        """How much of the limit is in use."""
        elapsed = max(0.0, now - self._time)  # the clock may have been set back
        self._level = max(0.0, self._level - elapsed * limit / 60)
        self._time = now
        return self._level

    def wait_for(self, amount: float, limit: int, now: float) -> float:
        """Seconds until `amount` fits; 0: it does now. What is more than the whole limit fits into an empty bucket."""
        excess = self.level(limit, now) + min(amount, limit) - limit
        return max(0.0, excess * 60 / limit)

    def add(self, amount: float) -> None:
        self._level = max(0.0, self._level + amount)
