"""What the workers of a RunPod endpoint are billed for: each run of one, from its start to its stop. Pure: looks go in.

RunPod bills a worker from its start until it has stopped, whether it loads, computes or waits, rounded up to a second
(docs.runpod.io/serverless/pricing). Its list of workers tells how long each has run, and only while it runs. A run that
is gone at a look ended between that look and the one before: the middle is taken, so that the errors of many runs
cancel out. What begins and ends between two looks is not seen.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

from local_gateway.accounts.spend import name_of
from local_gateway.wire.worker_list import SeenWorker

DAY = 86_400.0  # seconds
MAX_GAP = 30.0  # seconds between two looks beyond which nothing is concluded from what changed between them
MAX_STARTS = 10  # the last ones, of which the mean is taken
EXPECTED_START = 30.0  # seconds, of an endpoint none of whose workers was seen to start


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRun:
    """One run of one worker, as far as it was seen. Endpoint, worker and start name it."""

    endpoint: str  # its id
    worker_id: str
    started: float  # seconds since 1970, by RunPod's clock
    seconds: float  # from then to its end, or to the last look
    start_seconds: float | None = None  # until it was ready; None: it is not yet, or that was not seen
    price: float  # per second

    @property
    def billed_seconds(self) -> int:
        """A begun second is a second."""
        return ceil(self.seconds)

    def billed_by_day(self) -> Iterator[tuple[str, int]]:
        """Each day that it touches, in UTC, with the seconds that the bill grew by until the day's end."""
        midnight = self.started - self.started % DAY
        billed = 0
        while True:
            noon, midnight = midnight + DAY / 2, midnight + DAY
            until = ceil(min(self.seconds, midnight - self.started))
            yield name_of("day", noon), until - billed
            billed = until
            if midnight - self.started >= self.seconds:
                return


class WorkerRuns:
    """The runs of one endpoint's workers that are not over. Lives in the event loop. Knows no requests."""

    def __init__(self, endpoint: str, price: float) -> None:
        """`price` per second of one worker."""
        self.endpoint = endpoint
        self.price = price
        self._open: dict[tuple[str, float], WorkerRun] = {}
        self._starting: set[tuple[str, float]] = set()  # of these, those whose readiness will be seen
        self._looked: float | None = None  # when a look last succeeded
        self._is_known = False  # the last look succeeded
        self._starts: deque[float] = deque(maxlen=MAX_STARTS)
        # By what the bill grew between the last two looks; what ran before the first one is not in it.
        self.new_seconds = 0
        self.new_starts = 0

    @property
    def num_running(self) -> int | None:
        """Workers at the last look, starting ones included. None: it failed, or there was none yet."""
        return len(self._open) if self._is_known else None

    @property
    def start_seconds(self) -> float:
        """How long a start takes: the mean of the last ones."""
        return sum(self._starts) / len(self._starts) if self._starts else EXPECTED_START

    def look(self, now: float, seen: Iterable[SeenWorker]) -> list[WorkerRun]:
        """All runs that changed, given the workers that run at `now`, in seconds of a clock that is never set."""
        is_first = self._looked is None
        before, gap = self._open, 0.0 if self._looked is None else now - self._looked
        self._open = {(worker.id, worker.started): self._run_of(worker, gap) for worker in seen}
        self._starting &= self._open.keys()
        self._looked, self._is_known = now, True
        unseen = min(gap, MAX_GAP) / 2
        ended = [replace(run, seconds=run.seconds + unseen) for key, run in before.items() if key not in self._open]
        changed = [*ended, *self._open.values()]
        self._count_new([] if is_first else changed, before)
        return changed

    def look_failed(self) -> None:
        """How many workers run is unknown until the next look; what was seen before still counts then."""
        self._is_known = False

    def _count_new(self, changed: Iterable[WorkerRun], before: Mapping[tuple[str, float], WorkerRun]) -> None:
        self.new_seconds = self.new_starts = 0
        for run in changed:
            known = before.get((run.worker_id, run.started))
            self.new_seconds += run.billed_seconds - (known.billed_seconds if known else 0)
            self.new_starts += known is None

    def _run_of(self, worker: SeenWorker, gap: float) -> WorkerRun:
        key = (worker.id, worker.started)
        run = self._open.get(key)
        if run is None:
            run = WorkerRun(
                endpoint=self.endpoint, worker_id=worker.id, started=worker.started, seconds=0.0, price=self.price
            )
            if not worker.is_ready or worker.uptime <= gap:
                self._starting.add(key)
        if worker.is_ready and key in self._starting:
            self._starting.discard(key)
            if gap <= MAX_GAP:
                run = replace(run, start_seconds=(run.seconds + worker.uptime) / 2)
                self._starts.append((run.seconds + worker.uptime) / 2)
        return replace(run, seconds=max(run.seconds, worker.uptime))
