"""Money: what each key has spent per day and month, as far as this process knows."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime

from local_gateway.accounts.keys import Period

Spends = Mapping[tuple[str, str], float]  # of (key id, name of a period), in the currency of the prices

FORMATS: dict[Period, str] = {"day": "%Y-%m-%d", "month": "%Y-%m"}
ROUNDING = 1e-9  # of sums of floats


class Ledger:
    """The spending of each key per period: what the database knows, of all processes, plus what it does not know yet.

    Lives in the event loop; knows neither the database nor a clock.
    """

    def __init__(self) -> None:
        self._stored: Spends = {}
        self._unstored: defaultdict[tuple[str, str], float] = defaultdict(float)

    def spent(self, key_id: str, period: str) -> float:
        account = (key_id, period)
        return self._stored.get(account, 0.0) + max(0.0, self._unstored.get(account, 0.0))

    def spend(self, key_id: str, time: float, cost: float) -> None:
        """Of a request that is about to be recorded."""
        for period in periods_of(time):
            self._unstored[key_id, period] += cost

    def refresh(self, spends: Spends, stored: Spends) -> None:
        """`spends` is all the database knows; `stored` how much of it this process has added since the last time."""
        self._stored = spends
        for account, cost in stored.items():
            self._unstored[account] -= cost
            if abs(self._unstored[account]) < ROUNDING:
                del self._unstored[account]


def periods_of(time: float) -> tuple[str, str]:
    """The names of the day and the month, in UTC: 2026-11-22 and 2026-11."""
    return name_of("day", time), name_of("month", time)


def name_of(period: Period, time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime(FORMATS[period])


def seconds_left(period: Period, time: float) -> float:
    """Until the period ends."""
    now = datetime.fromtimestamp(time, UTC)
    if period == "day":
        return 86400 - time % 86400
    year, month = (now.year + 1, 1) if now.month == 12 else (now.year, now.month + 1)
    return datetime(year, month, 1, tzinfo=UTC).timestamp() - time
