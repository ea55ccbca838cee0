"""The usage records that wait for the database, between the event loop and the writer's thread."""

import threading
from collections import deque

from local_gateway.accounts.usage import UsageRecord


class UsageQueue:
    """Holds `max_size` records; when it is full the oldest are dropped and counted. Never blocks for long."""

    def __init__(self, max_size: int) -> None:
        self.num_dropped = 0
        self._records: deque[UsageRecord] = deque()
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
