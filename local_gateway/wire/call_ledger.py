"""What was sent to targets for one request: each call costs, whatever came of it."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from local_gateway.config.settings import Price
from local_gateway.errors import TargetConfigError, TargetRefusedError

UNWORKED = (503, 529)  # beside 4xx: statuses of a target that says that it did not begin


class ExecutionStats(NamedTuple):
    """What a target tells about an answer that is over. None: it does not say."""

    execution_seconds: float | None = None  # for which its GPU is paid
    queue_seconds: float | None = None  # from the request to its start


class StatsSource(Protocol):
    """A target's work that can be asked about afterwards, like a job of RunPod."""

    async def execution_stats(self) -> ExecutionStats:
        """See AnswerBody."""
        ...


class CallTally:
    """One call to one target. A context around it, to the end of its answer.

    The backend says when it began; without that the call was never sent and costs nothing. Lives in the event loop.
    Knows no tokens: what an answer used is read off the answer.
    """

    def __init__(
        self,
        target: str = "",
        price: Price | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.price = price or Price()
        self.is_refused = False  # the target said that it did not work on it
        self.is_over = False
        self.is_charged = False
        self._clock = clock
        self._started_at: float | None = None
        self._ended_at: float | None = None
        self._source: StatsSource | None = None

    def started(self, source: StatsSource | None = None) -> None:
        """The target has been sent it. `source` can be asked how long the target worked."""
        if self._started_at is None:
            self._started_at = self._clock()
        self._source = source or self._source

    @property
    def is_started(self) -> bool:
        return self._started_at is not None

    @property
    def seconds(self) -> float:
        """From its start to its end, or to now."""
        if self._started_at is None:
            return 0.0
        return (self._clock() if self._ended_at is None else self._ended_at) - self._started_at

    async def execution_stats(self) -> ExecutionStats:
        """What the target tells. Never raises; takes a few seconds at most."""
        return await self._source.execution_stats() if self._source else ExecutionStats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TargetRefusedError):
            self.is_refused = error.status < 500 or error.status in UNWORKED
        self.is_refused = self.is_refused or isinstance(error, TargetConfigError)
        self._ended_at = self._clock()
        self.is_over = True


class CallLedger:
    """All calls for one request, as they were begun. Shared with the requests that wait for the same answer."""

    def __init__(self) -> None:
        self._calls: list[CallTally] = []
        self._adopted: list[CallLedger] = []

    def begin(self, target: str, price: Price) -> CallTally:
        call = CallTally(target, price)
        self._calls.append(call)
        return call

    def adopt(self, other: "CallLedger") -> None:
        """Answer for another request's calls too, if that one leaves them behind."""
        if other is not self:
            self._adopted.append(other)

    @property
    def num_worked(self) -> int:
        """Calls that are over, and that their targets worked on."""
        return sum(call.is_over and call.is_started and not call.is_refused for call in self._calls)

    def take_uncharged(self) -> Iterator[CallTally]:
        """Started calls that are over and that no request has been charged for; from now on they are charged."""
        for call in [*self._calls, *(call for ledger in self._adopted for call in ledger._calls)]:
            if call.is_started and call.is_over and not call.is_charged:
                call.is_charged = True
                yield call
