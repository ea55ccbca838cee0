"""Keys, usage and spending in the database: each story in SQLite and in PostgreSQL."""

import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import pytest
from sqlalchemy import select, text

from local_gateway.accounts.keys import Key, new_key
from local_gateway.accounts.usage import UsageRecord
from local_gateway.accounts.worker_runs import WorkerRun
from local_gateway.errors import ConfigError, StoreError
from local_gateway.storage import database, tables
from local_gateway.storage.database import RefusedRowError
from local_gateway.storage.store import MAX_DELETED, MAX_TEXT, Store
from tests.gateway.postgres_server import PostgresServer, postgres_server
from tests.gateway.usage_samples import NOON, paid, record_of

DAY = 86400.0
FULL_KEY = replace(
    new_key("bob", created=1.5, models=("llama", "gpt-*"), max_rpm=1, max_tpm=2**40, max_concurrency=3, is_admin=True)[
        1
    ],
    budget=0.25,
    period="day",
    expires=NOON,
)
RUN = WorkerRun(endpoint="ep", worker_id="w1", started=NOON, seconds=4.5, start_seconds=2.0, price=0.5)


@pytest.fixture(scope="module")
def server(unused_tcp_port_factory: Callable[[], int]) -> Iterator[PostgresServer]:
    with postgres_server(unused_tcp_port_factory()) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/gateway.db"
    server: PostgresServer = request.getfixturevalue("server")
    return server.new_database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store(url)) as store:
        yield store


def all_records(store: Store) -> list[UsageRecord]:
    names = [field.name for field in fields(UsageRecord)]
    with store.database.read() as connection:
        rows = connection.execute(select(tables.usage).order_by(tables.usage.c.time)).mappings()
        return [UsageRecord(**{name: row[name] for name in names}) for row in rows]


# Keys


def test_keys_come_back_as_they_were(store: Store) -> None:
    """Every field of them, in the order in which they were made."""
    plain: Key = new_key("alice", created=1.0)[1]

    store.add_key(FULL_KEY)
    store.add_key(plain)

    assert store.all_keys() == [plain, FULL_KEY]


def test_a_revoked_key_stays(store: Store) -> None:
    """Disabled, so that its usage keeps its name, and its name may be used again."""
    store.add_key(FULL_KEY)

    store.disable_key(FULL_KEY.id)
    store.add_key(replace(FULL_KEY, id="another", hash="f" * 64))

    assert {key.id: key.is_disabled for key in store.all_keys()} == {FULL_KEY.id: True, "another": False}


def test_two_active_keys_cannot_have_one_name(store: Store) -> None:
    """They could not be told apart; the database works on."""
    store.add_key(FULL_KEY)

    with pytest.raises(RefusedRowError):
        store.add_key(replace(FULL_KEY, id="another", hash="f" * 64))

    assert store.all_keys() == [FULL_KEY]


@pytest.mark.parametrize("limits", [{"max_rpm": 0}, {"max_tpm": -1}, {"budget": -0.1}, {"period": "year"}])
def test_limits_that_make_no_sense_are_refused(store: Store, limits: dict[str, object]) -> None:
    """Also when they are not written by our commands."""
    with pytest.raises(RefusedRowError):
        store.add_key(replace(FULL_KEY, **limits))  # type: ignore[arg-type]  # that is the point


# Usage


def test_records_come_back_as_they_were(store: Store) -> None:
    """Every field of them."""
    full = record_of(
        id="1",
        request_id="req-1",
        key_id="k1",
        key_name="bob",
        alias="gpt-*",
        model="gpt-4o",
        target="openai:api.openai.com",
        endpoint="ep",
        is_stream=True,
        status=502,
        outcome="target_error",
        num_prompt_tokens=10**9,
        num_cached_tokens=2,
        num_completion_tokens=3,
        is_estimated=True,
        cost=0.1,
        execution_seconds=1.5,
        queue_seconds=0.5,
        first_token_seconds=0.25,
        total_seconds=2.5,
        num_attempts=4,
        is_cold=True,
        sharing="miss",
    )
    plain = record_of(time=NOON + 1)

    store.add([plain, full])

    assert all_records(store) == [full, plain]
    assert store.holds(plain)
    assert not store.holds(record_of())


def test_a_batch_is_stored_as_a_whole_or_not_at_all(store: Store) -> None:
    """With its costs: nothing is paid twice when it is tried again."""
    with pytest.raises(RefusedRowError):
        store.add([paid("k1", 1.0, id="same"), paid("k1", 1.0, id="same")])

    assert all_records(store) == []
    assert store.spends(NOON) == {}


@pytest.mark.parametrize("bad", [{"num_attempts": 10**30}, {"time": float("nan")}, {"time": 1e300}, {"path": None}])
def test_what_cannot_be_stored_is_refused(store: Store, bad: dict[str, object]) -> None:
    """By the kind of error that says: not this record, but others."""
    with pytest.raises(RefusedRowError):
        store.add([paid("k1", 1.0, **bad)])

    store.add([paid("k1", 1.0)])


def test_names_that_clients_choose_can_be_stored(store: Store) -> None:
    """Whatever they are; the end of very long ones is left out."""
    names = ["a\0b", "'; DROP TABLE gateway_usage; --", "%s :x ${x}", "ж\U0001f600", "x" * 10_000]

    store.add([record_of(time=NOON + n, model=name) for n, name in enumerate(names)])

    assert [record.model for record in all_records(store)] == ["ab", *names[1:-1], "x" * MAX_TEXT]


def test_old_records_are_forgotten_in_portions(store: Store) -> None:
    """A long deletion would keep others out; spending goes with its month."""
    for start in range(0, MAX_DELETED + 10, 1000):
        store.add([paid("k1", 1.0, time=NOON - 100 * DAY) for _ in range(start, min(start + 1000, MAX_DELETED + 10))])
    new = paid("k1", 2.0)
    store.add([new])

    assert store.forget_before(NOON - 50 * DAY)
    assert not store.forget_before(NOON - 50 * DAY)

    assert all_records(store) == [new]
    assert store.spends(NOON - 100 * DAY) == {}
    assert store.spends(NOON) == {("k1", "2026-11"): 2.0, ("k1", "2026-11-22"): 2.0}


# Spending


def test_spending_adds_up_per_key_day_and_month(store: Store) -> None:
    """Requests without a key, and those that cost nothing, leave no trace in it."""
    store.add([paid("k1", 1.0), paid("k2", 4.0), paid("", 9.0), paid("k3", 0.0)])
    store.add([paid("k1", 0.5), paid("k1", 2.0, time=NOON - DAY), paid("k1", 8.0, time=NOON - 30 * DAY)])

    assert store.spends(NOON) == {
        ("k1", "2026-11-22"): 1.5,
        ("k1", "2026-11"): 3.5,
        ("k2", "2026-11-22"): 4.0,
        ("k2", "2026-11"): 4.0,
    }


def test_sums(store: Store) -> None:
    """The same requests by key, model, target and day; the dearest first, days in order."""
    bob = {"key_name": "bob", "model": "llama", "target": "t1", "num_prompt_tokens": 10, "num_completion_tokens": 2}
    eve = {"key_name": "eve", "model": "gpt-4o", "target": "t2", "num_prompt_tokens": 1, "num_cached_tokens": 1}
    store.add(
        [
            record_of(**bob, cost=1.0, first_token_seconds=1.0),
            record_of(**bob, cost=1.0, first_token_seconds=3.0, time=NOON - DAY),
            record_of(**eve, cost=5.0, status=502),
        ]
    )

    by_key = store.usage_by("key")

    assert by_key[0] == ("eve", 1, 1, 1, 1, 0, 5.0, None)
    assert by_key[1] == ("bob", 2, 0, 20, 0, 4, 2.0, 2.0)
    assert [one.group for one in store.usage_by("model")] == ["gpt-4o", "llama"]
    assert [one.group for one in store.usage_by("target")] == ["t2", "t1"]
    assert [(one.group, one.num_requests) for one in store.usage_by("day")] == [("2026-11-21", 1), ("2026-11-22", 2)]
    assert [one.group for one in store.usage_by("day", "2026-11-22")] == ["2026-11-22"]
    assert store.usage_by("day", "2026-11-23") == []


# Workers


def test_what_an_endpoint_costs(store: Store) -> None:
    """The bill of its workers, and the tokens that its answers had; the dearest endpoint first."""
    tokens = {"num_prompt_tokens": 1000, "num_completion_tokens": 500}
    store.add([record_of(endpoint="ep", **tokens), record_of(endpoint="ep", **tokens), record_of(**tokens)])
    dear = replace(RUN, endpoint="dear", seconds=600.0, start_seconds=None)

    store.keep_runs([RUN, replace(RUN, started=NOON + 60, seconds=0.1, start_seconds=None), dear])

    first, second = store.endpoints()
    assert first == ("dear", 1, 600, 0.0, 0, 300.0, 0.0, 0, 0)
    assert (first.million_cost, first.cold_start_cost) == (None, None)
    assert second == ("ep", 2, 6, 2.0, 1, 3.0, 1.0, 2000, 1000)
    assert (second.million_cost, second.cold_start_cost) == (3000.0, 1.0)


def test_a_run_that_is_told_again(store: Store) -> None:
    """By this gateway or another, sooner or later: it is one run, and nothing of it is taken back."""
    for run in (RUN, RUN, replace(RUN, seconds=30.0, start_seconds=None), replace(RUN, seconds=20.0)):
        store.keep_runs([run])

    assert [(one.num_starts, one.billed_seconds, one.start_seconds) for one in store.endpoints()] == [(1, 30, 2.0)]


def test_a_run_over_midnight(store: Store) -> None:
    """Each day has its seconds; the start is the first one's."""
    store.keep_runs([replace(RUN, seconds=DAY)])

    assert [(one.num_starts, one.billed_seconds) for one in store.endpoints("2026-11-22")] == [(1, 86_400)]
    assert [(one.num_starts, one.billed_seconds) for one in store.endpoints("2026-11-23")] == [(0, 43_200)]
    assert store.endpoints("2026-11-24") == []


def test_runs_of_forgotten_days(store: Store) -> None:
    """They go with the usage of their time."""
    store.keep_runs([RUN, replace(RUN, started=NOON + DAY)])

    store.forget_before(NOON + DAY)

    assert [one.billed_seconds for one in store.endpoints()] == [5]


def test_runs_that_cannot_be_stored_are_refused(store: Store) -> None:
    """None of those that were given is stored."""
    with pytest.raises(RefusedRowError):
        store.keep_runs([RUN, replace(RUN, started=1e300)])

    assert store.endpoints() == []


# Opening


def test_a_second_opening_finds_everything(url: str) -> None:
    """Tables are made once."""
    for n in range(3):
        with closing(Store(url)) as store:
            store.add([record_of(time=NOON + n)])
            assert len(all_records(store)) == n + 1


def test_the_database_of_an_older_gateway_is_brought_up_to_date(url: str) -> None:
    """Its keys stay what they were; none of them becomes an administrator's."""
    with closing(Store(url)) as store, store.database.write() as connection:
        connection.execute(text("ALTER TABLE gateway_keys DROP COLUMN is_admin"))
        connection.execute(text("ALTER TABLE gateway_usage DROP COLUMN end_user"))
        connection.execute(text("ALTER TABLE gateway_usage DROP COLUMN endpoint"))
        connection.execute(text("DROP TABLE gateway_worker_runs"))
        connection.execute(tables.schema.update().values(version=1))
        row = {"id": "k", "name": "old", "prefix": "lg-", "hash": "h", "models": "", "period": "day", "created": 1.0}
        columns = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        statement = f"INSERT INTO gateway_keys ({columns}, is_disabled) VALUES ({values}, FALSE)"
        connection.execute(text(statement), row)

    for _ in range(2):
        with closing(Store(url)) as store:
            assert [(key.name, key.is_admin) for key in store.all_keys()] == [("old", False)]
            store.add([record_of(endpoint="ep")])
            store.keep_runs([RUN])
            assert [one.billed_seconds for one in store.endpoints()] == [5]


def test_the_database_of_a_newer_gateway_is_left_alone(url: str) -> None:
    """Who does not know its tables does not write into them."""
    with closing(Store(url)) as store, store.database.write() as connection:
        connection.execute(tables.schema.insert(), {"version": tables.SCHEMA_VERSION + 1})

    with pytest.raises(StoreError, match=r"made by another version .* number 5, .* knows 4"):
        Store(url)


@pytest.mark.parametrize(
    "url",
    ["", "gateway.db", "sqlite://", "sqlite:///:memory:", "mysql://bob:geheim@host/db", "://bob:geheim@", "oracle://x"],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    """The message names no password."""
    with pytest.raises(ConfigError, match=r"database\.url") as caught:
        Store(url)

    assert "geheim" not in str(caught.value)


def test_a_database_that_cannot_be_reached() -> None:
    """Says so, without a password."""
    with pytest.raises(StoreError) as caught:
        Store("postgresql://bob:geheim@127.0.0.1:1/db")

    assert "geheim" not in str(caught.value)


def test_the_file_is_its_owners(tmp_path: Path) -> None:
    """Usage tells who talks when; its folder is made."""
    path = tmp_path / "new" / "folder" / "gateway.db"

    with closing(Store(f"sqlite:///{path}")) as store:
        store.add([record_of()])
        modes = {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}

    assert modes == {0o600}


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """It is not overwritten."""
    path = tmp_path / "gateway.db"
    path.write_text("My diary. " * 1000)

    with pytest.raises(StoreError, match="not a database"):
        Store(f"sqlite:///{path}")

    assert path.read_text() == "My diary. " * 1000


def test_a_link_to_a_file_elsewhere(tmp_path: Path) -> None:
    """The link stays, also if there is no file yet."""
    link, path = tmp_path / "link.db", tmp_path / "disk" / "gateway.db"
    link.symlink_to(path)

    with closing(Store(f"sqlite:///{link}")) as store:
        store.add([record_of()])
        store.check_file()

    assert link.is_symlink()
    assert path.stat().st_size > 0


def test_a_stale_journal_is_not_replayed_into_a_new_file(tmp_path: Path) -> None:
    """Who deletes the database file often leaves its journal."""
    path = tmp_path / "gateway.db"
    with closing(Store(f"sqlite:///{path}")) as old:
        old.add([record_of()])
        path.unlink()
        assert (tmp_path / "gateway.db-wal").exists()

        with closing(Store(f"sqlite:///{path}")) as new:
            new.add([record_of(id="new")])
            assert [record.id for record in all_records(new)] == ["new"]

        with pytest.raises(StoreError, match="deleted, emptied or replaced"):
            old.check_file()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_folder_that_another_program_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for without end, and said."""
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.05)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="locked by another program"):
            Store(f"sqlite:///{tmp_path}/gateway.db")
    finally:
        os.close(descriptor)
