"""The one thread that talks to the database while the gateway runs. No request waits for it."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from local_gateway.accounts.usage import UsageRecord
from local_gateway.accounts.worker_runs import WorkerRun
from local_gateway.errors import GatewayError
from local_gateway.storage.queue import UsageQueue
from local_gateway.storage.store import Store
from local_gateway.storage.sync import MAX_BATCH, Snapshot, StoreSync

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.25  # what a killed process loses
MAX_QUEUED = 100_000  # while the database is away: some 100 MB
MAX_PAUSE = 2.0  # between two tries


class StoreWriter:
    """Owns the database thread: stores usage records within FLUSH_SECONDS and publishes snapshots to the event loop.

    While the database is away, deleted, locked or full, records wait here, the oldest are dropped when there are too
    many, and the last snapshot stays true.
    """

    def __init__(
        self,
        open_store: Callable[[bool], Store],
        *,
        keep_usage: float,
        clock: Callable[[], float] = time.time,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        """`keep_usage` in seconds; `clock` gives seconds since 1970."""
        self.is_ok = True  # the last try succeeded
        self._queue = UsageQueue(max_queued)
        self._sync = StoreSync(self._queue, open_store, keep_usage=keep_usage, clock=clock)
        self._subscriber: _Subscriber | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    @property
    def num_queued(self) -> int:
        """Records that are not stored yet."""
        return self._sync.num_waiting

    @property
    def num_dropped(self) -> int:
        """Records that will never be stored."""
        return self._queue.num_dropped + self._sync.num_refused

    def start(self, publish: Callable[[Snapshot], None]) -> None:
        """Called in the event loop, in which `publish` will be called with every snapshot: the first one at once."""
        loop = asyncio.get_running_loop()
        self._subscriber = _Subscriber(loop, publish)
        self._thread.start()

    def record(self, record: UsageRecord) -> None:
        """Queue a record for the writer's thread. Does not block and does not raise."""
        self._queue.put(record)
        if len(self._queue) >= MAX_BATCH:
            self._wake.set()

    def note_runs(self, runs: Iterable[WorkerRun]) -> None:
        """Queue workers' runs as they are now. Does not block and does not raise."""
        self._queue.put_runs(runs)

    def close(self, timeout: float) -> bool:
        """Store what is left; blocks for up to `timeout` seconds. Whether nothing was left behind."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        num_lost = self.num_queued
        if num_lost:
            log.error("%d usage records could not be stored and are lost.", num_lost)
        return not num_lost

    # In the thread

    def _run(self) -> None:
        num_failures = 0
        while True:
            is_last = self._closing.is_set()
            num_failures = 0 if self._step() else num_failures + 1
            if is_last:
                break
            self._rest(num_failures)
        self._sync.close()

    def _step(self) -> bool:
        try:
            snapshot = self._sync.step(time.monotonic())
        except GatewayError as error:
            self._note_failure(str(error))
        except Exception as error:  # without this thread nothing would be recorded any more, and no key revoked
            log.exception("Storing usage failed with an unexpected error.")
            self._note_failure(type(error).__name__)
        else:
            self._note_success()
            if snapshot:
                assert self._subscriber is not None
                self._subscriber.send(snapshot)
            return True
        return False

    def _rest(self, num_failures: int) -> None:
        if num_failures:
            self._closing.wait(min(MAX_PAUSE, FLUSH_SECONDS * 2 ** min(num_failures, 10)))
        else:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()

    def _note_failure(self, reason: str) -> None:
        if self.is_ok:
            log.error("The database cannot be used; requests go on, and their records wait: %s", reason)
        self.is_ok = False

    def _note_success(self) -> None:
        if not self.is_ok:
            log.warning("The database can be used again; all records that waited are stored.")
        self.is_ok = True


@dataclass(frozen=True, slots=True)
class _Subscriber:
    """The event loop that is told of every snapshot."""

    loop: asyncio.AbstractEventLoop
    publish: Callable[[Snapshot], None]

    def send(self, snapshot: Snapshot) -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing reads snapshots any more
            self.loop.call_soon_threadsafe(self.publish, snapshot)
