"""Database and gateway in step, whatever happens to the database. Without threads: one step after the other."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event

from local_gateway.accounts.keys import Key, new_key
from local_gateway.accounts.usage import UsageRecord
from local_gateway.accounts.worker_runs import WorkerRun
from local_gateway.errors import StoreError
from local_gateway.storage.queue import UsageQueue
from local_gateway.storage.store import Store
from local_gateway.storage.sync import FORGET_SECONDS, MAX_BATCH, REFRESH_SECONDS, Snapshot, StoreSync
from tests.gateway.usage_samples import NOON, paid, record_of

RUN = WorkerRun(endpoint="ep", worker_id="w1", started=NOON, seconds=4.5, price=0.5)
KEY: Key = new_key("bob", created=1.0)[1]


class Gateway:
    """What of a gateway concerns its database."""

    def __init__(self, path: Path, *, keep_usage: float = 1e6, max_pages: int | None = None) -> None:
        self.path = path
        self.max_pages = max_pages
        self.queue = UsageQueue(max_size=10_000)
        self.sync = StoreSync(self.queue, self._open, keep_usage=keep_usage, clock=lambda: NOON)
        self.now = 0.0

    def _open(self, create: bool) -> Store:
        store = Store(f"sqlite:///{self.path}", create=create)
        if self.max_pages:
            self._fill_the_disk(store, self.max_pages)
        return store

    def _fill_the_disk(self, store: Store, max_pages: int) -> None:
        @event.listens_for(store.database.engine, "begin")
        def limit(connection: object) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {max_pages}")  # type: ignore[attr-defined]  # a Connection

    def record(self, *records: UsageRecord) -> None:
        for record in records:
            self.queue.put(record)

    def step(self, *, seconds: float = 0.25) -> Snapshot | None:
        self.now += seconds
        return self.sync.step(self.now)

    def refresh(self) -> Snapshot:
        """A step after so long that everything is read."""
        snapshot = self.step(seconds=REFRESH_SECONDS)
        assert snapshot is not None
        return snapshot


@contextmanager
def gateway(path: Path, **options: float) -> Iterator[Gateway]:
    gateway = Gateway(path, **options)  # type: ignore[arg-type]  # tests name the options they set
    with closing(gateway.sync):
        yield gateway


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


def stored_ids(path: Path) -> set[str]:
    """As another program sees them, in a database that is whole."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in connection.execute("SELECT id FROM gateway_usage")}


def add_key(path: Path, key: Key) -> None:
    """As the command does."""
    with closing(Store(f"sqlite:///{path}")) as store:
        store.add_key(key)


def test_records_are_stored_and_their_spending_is_told(path: Path) -> None:
    """With how much of it is this process's own."""
    with gateway(path) as ours:
        ours.record(paid("k1", 1.0, id="1"), paid("k1", 2.0, id="2"), record_of(id="3"))

        snapshot = ours.step()

        assert stored_ids(path) == {"1", "2", "3"}
        assert snapshot is not None
        assert snapshot.spends == snapshot.stored == {("k1", "2026-11"): 3.0, ("k1", "2026-11-22"): 3.0}
        assert ours.refresh().stored == {}


def test_more_records_than_a_batch(path: Path) -> None:
    """One step stores them all."""
    records = [record_of() for _ in range(2 * MAX_BATCH + 1)]
    with gateway(path) as ours:
        ours.record(*records)
        ours.step()

    assert stored_ids(path) == {record.id for record in records}
    assert ours.sync.num_waiting == 0


def test_an_idle_gateway_does_not_ask_all_the_time(path: Path) -> None:
    """Nothing to store and just read: nothing to do."""
    with gateway(path) as ours:
        assert ours.refresh() is not None

        assert ours.step(seconds=REFRESH_SECONDS / 2) is None


def test_a_new_and_a_revoked_key_are_seen(path: Path) -> None:
    """By a running gateway, with its next look."""
    with gateway(path) as ours:
        assert len(ours.refresh().keyring) == 0

        add_key(path, KEY)
        assert list(ours.refresh().keyring) == [KEY]

        with closing(Store(f"sqlite:///{path}")) as store:
            store.disable_key(KEY.id)
        assert list(ours.refresh().keyring) == [replace(KEY, is_disabled=True)]


def test_two_gateways_on_one_file_share_their_spending(path: Path) -> None:
    """Each knows what it added itself."""
    with gateway(path) as ours, gateway(path) as theirs:
        ours.record(paid("k1", 1.0))
        theirs.record(paid("k1", 2.0))
        ours.step()
        assert theirs.step() is not None

        snapshot = ours.refresh()

        assert snapshot.spends["k1", "2026-11"] == 3.0
        assert snapshot.stored == {}
        assert len(stored_ids(path)) == 2


def test_old_usage_is_forgotten(path: Path) -> None:
    """From time to time."""
    with gateway(path, keep_usage=100.0) as ours:
        ours.step()
        ours.record(record_of(id="old", time=NOON - 101), record_of(id="new", time=NOON - 99))
        ours.step()
        assert stored_ids(path) == {"old", "new"}

        ours.step(seconds=FORGET_SECONDS)

        assert stored_ids(path) == {"new"}


# Runs of workers


def billed_seconds(path: Path) -> dict[str, int]:
    with closing(Store(f"sqlite:///{path}")) as store:
        return {one.endpoint: one.billed_seconds for one in store.endpoints()}


def test_runs_wait_for_the_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it is by then, once."""

    def keep_runs(store: Store, runs: list[WorkerRun]) -> None:
        raise StoreError("the connection broke")

    with gateway(path) as ours:
        monkeypatch.setattr(Store, "keep_runs", keep_runs)
        ours.queue.put_runs([RUN, replace(RUN, endpoint="other")])
        with pytest.raises(StoreError):
            ours.step()
        ours.queue.put_runs([replace(RUN, seconds=7.0)])
        monkeypatch.undo()

        ours.step()

    assert billed_seconds(path) == {"ep": 7, "other": 5}


def test_runs_that_the_database_refuses(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are lost, and said; records and keys go on."""
    with gateway(path) as ours:
        ours.queue.put_runs([replace(RUN, started=1e300)])
        ours.record(record_of(id="1"))
        ours.step()
        ours.queue.put_runs([RUN])
        ours.step()

    assert stored_ids(path) == {"1"}
    assert billed_seconds(path) == {"ep": 5}
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# When something is wrong with the database


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_database_that_vanished_is_an_error_until_it_is_back(path: Path, tmp_path: Path, how: str) -> None:
    """Losing a file must not open the door: no new one is made, and the records wait for the old one."""
    backup = tmp_path / "backup.db"
    with gateway(path) as ours:
        add_key(path, KEY)
        ours.record(paid("k1", 1.0, id="before"))
        ours.refresh()
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
        if how == "emptied":
            path.touch()
        ours.record(paid("k1", 2.0, id="after"))

        for _ in range(3):
            with pytest.raises(StoreError, match=r"deleted, emptied or replaced|missing or empty"):
                ours.step()
        backup.replace(path)
        snapshot = ours.refresh()

        assert stored_ids(path) == {"before", "after"}
        assert list(snapshot.keyring) == [KEY]
        assert snapshot.spends["k1", "2026-11"] == 3.0


def test_a_commit_of_unknown_outcome_is_not_repeated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks after the commit must not make a key pay twice."""

    def add(store: Store, records: list[UsageRecord]) -> object:
        monkeypatch.undo()
        store.add(records)
        raise StoreError("the connection broke")

    with gateway(path) as ours:
        ours.refresh()
        monkeypatch.setattr(Store, "add", add)
        ours.record(paid("k1", 1.0, id="1"), paid("k1", 1.0, id="2"))

        with pytest.raises(StoreError):
            ours.step()
        snapshot = ours.refresh()

        assert stored_ids(path) == {"1", "2"}
        assert snapshot.spends["k1", "2026-11"] == snapshot.stored["k1", "2026-11"] == 2.0


def test_a_locked_database_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records wait; when the lock is gone they are stored once."""
    monkeypatch.setattr("local_gateway.storage.database.BUSY_SECONDS", 0.01)
    with gateway(path) as ours:
        ours.refresh()
        ours.record(paid("k1", 1.0, id="1"))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for _ in range(3):
                with pytest.raises(StoreError, match="locked"):
                    ours.step()
            assert ours.sync.num_waiting == 1

        snapshot = ours.refresh()

        assert stored_ids(path) == {"1"}
        assert snapshot.spends["k1", "2026-11"] == 1.0


def test_a_full_disk_is_waited_for(path: Path) -> None:
    """Records wait; when there is space they are stored once."""
    with gateway(path, max_pages=20) as ours:
        ours.refresh()
        records = [paid("k1", 1.0, target="x" * 300) for _ in range(MAX_BATCH + 1)]
        ours.record(*records)
        for _ in range(3):
            with pytest.raises(StoreError, match="full"):
                ours.step()
        assert ours.sync.num_waiting == len(records)
        assert stored_ids(path) == set()

        ours.max_pages = None
        snapshot = ours.refresh()

        assert stored_ids(path) == {record.id for record in records}
        assert snapshot.spends["k1", "2026-11"] == len(records)


def test_a_record_that_cannot_be_stored_takes_no_other_with_it(path: Path) -> None:
    """It is counted as lost, and the others are stored and paid."""
    good = [paid("k1", 1.0) for _ in range(20)]
    bad = [paid("k1", 1.0, num_attempts=10**30), paid("k1", 1.0, time=float("nan"))]
    with gateway(path) as ours:
        ours.record(*good[:7], bad[0], *good[7:], bad[1])

        snapshot = ours.step()

        assert snapshot is not None
        assert stored_ids(path) == {record.id for record in good}
        assert snapshot.stored["k1", "2026-11"] == 20.0
        assert (ours.sync.num_refused, ours.sync.num_waiting) == (2, 0)


def test_a_full_queue_drops_the_oldest() -> None:
    """Memory has an end; what is lost is counted."""
    queue = UsageQueue(max_size=3)
    for n in range(5):
        queue.put(record_of(id=str(n)))

    assert [record.id for record in queue.take(10)] == ["2", "3", "4"]
    assert (queue.num_dropped, len(queue)) == (2, 0)
