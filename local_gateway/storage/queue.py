"""What waits for the database, between the event loop and the writer's thread: usage records and workers' runs."""

import threading
from collections import deque
from collections.abc import Iterable

from local_gateway.accounts.usage import UsageRecord
from local_gateway.accounts.worker_runs import WorkerRun


class UsageQueue:
    """Holds `max_size` records; when it is full the oldest are dropped and counted. Never blocks for long.

    Of each worker's run it holds the last state alone, which has all that earlier ones had.
    """

    def __init__(self, max_size: int) -> None:
        self.num_dropped = 0
        self._records: deque[UsageRecord] = deque()
        self._runs: dict[tuple[str, str, float], WorkerRun] = {}
        self._max_size = max_size
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: UsageRecord) -> None:
        with self._lock:
            if len(self._records) >= self._max_size:
                self._records.popleft()
                self.num_dropped += 1
            self._records.append(record)

    def take(self, max_records: int) -> list[UsageRecord]:
        """Remove and return the oldest records, at most `max_records`."""
        with self._lock:
            return [self._records.popleft() for _ in range(min(max_records, len(self._records)))]

    def put_runs(self, runs: Iterable[WorkerRun]) -> None:
        """As they are now."""
        with self._lock:
            self._runs |= {_key_of(run): run for run in runs}

    def put_back_runs(self, runs: Iterable[WorkerRun]) -> None:
        """Runs that were taken and not stored; those that have changed meanwhile are here already."""
        with self._lock:
            self._runs = {_key_of(run): run for run in runs} | self._runs

    def take_runs(self) -> list[WorkerRun]:
        """Remove and return all of them."""
        with self._lock:
            runs, self._runs = [*self._runs.values()], {}
        return runs


def _key_of(run: WorkerRun) -> tuple[str, str, float]:
    return run.endpoint, run.worker_id, run.started
