"""One step of keeping database and gateway in step: store what waits, read what has changed. No thread, no waiting."""

import logging
from collections import defaultdict, deque
from collections.abc import Callable
from typing import NamedTuple

from local_gateway.accounts.keys import Key, Keyring
from local_gateway.accounts.spend import Spends
from local_gateway.accounts.usage import UsageRecord
from local_gateway.storage.database import RefusedRowError
from local_gateway.storage.queue import UsageQueue
from local_gateway.storage.store import Store, spends_of

log = logging.getLogger(__name__)

MAX_BATCH = 500  # records in one transaction
REFRESH_SECONDS = 1.0  # after which other processes' keys and spending are seen
FORGET_SECONDS = 3600.0


class Snapshot(NamedTuple):
    """What the database says at one moment."""

    keyring: Keyring
    spends: Spends  # of this day and month, by all processes
    stored: Spends  # what this process has added to it since the last snapshot


class StoreSync:
    """Used by one thread. After an error it opens the database again, and nothing that was queued is lost.

    A database is only made at the first opening. One that vanishes later is an error until it is back: the last
    snapshot of its keys holds meanwhile, and records wait.
    """

    def __init__(
        self,
        queue: UsageQueue,
        open_store: Callable[[bool], Store],
        *,
        keep_usage: float,
        clock: Callable[[], float],
    ) -> None:
        """`open_store` is told whether it may make a database; `keep_usage` in seconds, `clock` since 1970."""
        self.num_refused = 0  # records that no database takes
        self._queue = queue
        self._open_store = open_store
        self._keep_usage = keep_usage
        self._clock = clock
        self._store: Store | None = None
        self._batches: deque[list[UsageRecord]] = deque()  # taken from the queue, not yet stored
        self._num_taken = 0  # in all batches
        self._is_uncertain = False  # the first batch may be stored: the last step failed
        self._stored: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._has_opened = False
        self._keys: tuple[Key, ...] = ()
        self._keyring = Keyring()
        self._refreshed = self._forgot = -float("inf")

    @property
    def num_waiting(self) -> int:
        """Records that are not stored yet, queued or in batches. May be read from any thread."""
        return len(self._queue) + self._num_taken

    def step(self, now: float) -> Snapshot | None:
        """Raises StoreError. `now`: seconds of a clock that is never set. None: there is nothing new."""
        try:
            store = self._store = self._store or self._open_store(not self._has_opened)
            self._has_opened = True
            store.check_file()
            has_stored = self._store_all(store)
            self._store_runs(store)
            self._forget(store, now)
            return self._read(store, now, has_stored)
        except BaseException:
            self._is_uncertain = bool(self._batches)
            self.close()
            raise

    def close(self) -> None:
        if self._store:
            self._store.close()
            self._store = None

    def _store_all(self, store: Store) -> bool:
        """Store all batches and the queue; returns whether there were records."""
        has_stored = False
        while self._batches or self._queue:
            if not self._batches:
                self._take()
            self._store_batch(store, self._batches[0])
            has_stored = True
        return has_stored

    def _store_runs(self, store: Store) -> None:
        """To store one again changes nothing, so those of a failed try simply wait for the next."""
        runs = self._queue.take_runs()
        if not runs:
            return
        try:
            store.keep_runs(runs)
        except RefusedRowError as error:
            log.error("The database refuses runs of workers, which are lost: %s", error)
        except BaseException:
            self._queue.put_back_runs(runs)
            raise

    def _take(self) -> None:
        batch = self._queue.take(MAX_BATCH)
        self._num_taken += len(batch)
        self._batches.append(batch)

    def _store_batch(self, store: Store, batch: list[UsageRecord]) -> None:
        try:
            if not self._is_uncertain or not store.holds(batch[0]):
                store.add(batch)
            store.check_file()
        except RefusedRowError as error:
            self._batches.popleft()
            self._divide(batch, error)
        else:
            self._batches.popleft()
            self._note_stored(batch)
        self._is_uncertain = False

    def _note_stored(self, batch: list[UsageRecord]) -> None:
        self._num_taken -= len(batch)
        for account, cost in spends_of(batch).items():
            self._stored[account] += cost

    def _divide(self, batch: list[UsageRecord], error: RefusedRowError) -> None:
        """One bad record does not take the others with it."""
        if len(batch) > 1:
            half = len(batch) // 2
            self._batches.extendleft([batch[half:], batch[:half]])
            return
        self._num_taken -= 1
        self.num_refused += 1
        log.error("The database refuses a usage record, which is lost: %s", error)

    def _read(self, store: Store, now: float, has_stored: bool) -> Snapshot | None:
        is_due = now - self._refreshed >= REFRESH_SECONDS
        if not has_stored and not is_due:
            return None
        keys = tuple(store.all_keys()) if is_due else self._keys
        if keys != self._keys:
            self._keys, self._keyring = keys, Keyring(keys)
        spends = store.spends(self._clock())
        self._refreshed = now if is_due else self._refreshed
        stored, self._stored = self._stored, defaultdict(float)
        return Snapshot(self._keyring, spends, stored)

    def _forget(self, store: Store, now: float) -> None:
        if now - self._forgot < FORGET_SECONDS:
            return
        is_more_left = store.forget_before(self._clock() - self._keep_usage)
        if not is_more_left:
            self._forgot = now
