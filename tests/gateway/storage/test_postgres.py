"""What only PostgreSQL does: many gateways on one server, which may go away. Its queries are told in test_store.py."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from psycopg import sql

from local_gateway.accounts.keys import new_key
from local_gateway.errors import StoreError
from local_gateway.storage.database import RefusedRowError
from local_gateway.storage.queue import UsageQueue
from local_gateway.storage.store import Store
from local_gateway.storage.sync import StoreSync
from local_gateway.storage.writer import StoreWriter
from tests.gateway.postgres_server import PostgresServer, postgres_server
from tests.gateway.usage_samples import NOON, paid

TIMEOUT = 30.0  # seconds, after which a test hangs
NUM_GATEWAYS = 8


@pytest.fixture(scope="module")
def server(unused_tcp_port_factory: Callable[[], int]) -> Iterator[PostgresServer]:
    with postgres_server(unused_tcp_port_factory()) as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.new_database()


def drop_tables(url: str) -> None:
    with psycopg.connect(url) as connection:
        for name in ("gateway_schema", "gateway_keys", "gateway_usage", "gateway_spend"):
            connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_urls_as_people_write_them(url: str, scheme: str) -> None:
    """The driver need not be named."""
    with closing(Store(url.replace("postgresql", scheme, 1))) as store:
        assert store.all_keys() == []


def test_many_gateways_start_at_once(url: str) -> None:
    """Each finds the tables whole, whichever makes them; their keys and spending add up."""
    barrier = threading.Barrier(NUM_GATEWAYS)

    def start(number: int) -> None:
        barrier.wait(TIMEOUT)
        with closing(Store(url)) as store:
            store.add_key(new_key(f"key {number}", created=float(number))[1])
            for _ in range(20):
                store.add([paid("k1", 1.0), paid(f"k{number}", 1.0), paid("k2", 1.0)])

    with ThreadPoolExecutor(NUM_GATEWAYS) as threads:
        list(threads.map(start, range(100, 100 + NUM_GATEWAYS)))

    with closing(Store(url)) as store:
        assert len(store.all_keys()) == NUM_GATEWAYS
        assert store.spends(NOON)["k1", "2026-11"] == 20.0 * NUM_GATEWAYS
        assert store.spends(NOON)["k2", "2026-11-22"] == 20.0 * NUM_GATEWAYS


def test_of_two_keys_with_one_name_one_is_made(url: str) -> None:
    """Also when two people make them at the same moment."""
    barrier = threading.Barrier(2)

    def create(number: int) -> bool:
        with closing(Store(url)) as store:
            barrier.wait(TIMEOUT)
            try:
                store.add_key(new_key("bob", created=float(number))[1])
            except RefusedRowError:
                return False
            return True

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(create, range(2))) == [False, True]


def test_tables_that_were_dropped_are_an_error(url: str) -> None:
    """The running gateway keeps the keys it knows; a database without them is never taken for the truth."""
    queue = UsageQueue(max_size=100)
    sync = StoreSync(queue, lambda create: Store(url, create=create), keep_usage=1e9, clock=lambda: NOON)
    with closing(sync):
        queue.put(paid("k1", 1.0))
        sync.step(0.0)
        drop_tables(url)
        queue.put(paid("k1", 2.0))

        for _ in range(2):
            with pytest.raises(StoreError):
                sync.step(0.25)

        assert sync.num_waiting == 1


async def test_a_server_that_goes_away_and_comes_back(server: PostgresServer, url: str) -> None:
    """Recording goes on; afterwards everything is there, once, and keys are read again."""
    snapshots: asyncio.Queue[float] = asyncio.Queue()
    key = new_key("bob", created=1.0)[1]
    writer = StoreWriter(lambda create: Store(url, create=create), keep_usage=1e9)
    writer.start(lambda snapshot: snapshots.put_nowait(sum(snapshot.stored.values())))
    await asyncio.wait_for(snapshots.get(), TIMEOUT)

    writer.record(paid("k1", 1.0, time=time.time()))
    await asyncio.to_thread(server.stop)
    for _ in range(1000):
        writer.record(paid("k1", 1.0, time=time.time()))
    await asyncio.to_thread(server.start)

    num_stored = 0.0
    while num_stored < 2 * 1001:  # of the day and of the month
        num_stored += await asyncio.wait_for(snapshots.get(), TIMEOUT)
    with closing(Store(url)) as store:
        assert sum(one.num_requests for one in store.usage_by("key")) == 1001
        assert store.usage_by("key")[0].cost == 1001.0
        store.add_key(key)
    assert await asyncio.to_thread(writer.close, TIMEOUT)


def test_a_table_that_is_locked_does_not_hold_the_writer_for_ever(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up, and tries again."""
    monkeypatch.setattr("local_gateway.storage.database.STATEMENT_TIMEOUT", "100ms")
    with closing(Store(url)) as store, psycopg.connect(url) as other:
        other.execute("LOCK TABLE gateway_usage")
        with pytest.raises(StoreError, match="timeout"):
            store.add([paid("k1", 1.0, id="1")])

        other.rollback()

        store.add([paid("k1", 1.0, id="1")])
        assert store.spends(NOON)["k1", "2026-11"] == 1.0
