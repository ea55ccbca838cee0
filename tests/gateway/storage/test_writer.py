"""The thread that writes, and what is left when its process is killed."""

import asyncio
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from local_gateway.accounts.keys import Key, new_key
from local_gateway.errors import StoreError
from local_gateway.storage.store import Store
from local_gateway.storage.sync import MAX_BATCH, Snapshot
from local_gateway.storage.writer import StoreWriter
from tests.gateway.usage_samples import paid, record_of

ROOT = Path(__file__).parents[3]
TIMEOUT = 20.0  # seconds, after which a test hangs
KEPT_SECONDS = 1.0  # what is older survives a kill


class Inbox:
    """The snapshots that the event loop is given."""

    def __init__(self) -> None:
        self._snapshots: asyncio.Queue[Snapshot] = asyncio.Queue()

    def put(self, snapshot: Snapshot) -> None:
        assert threading.current_thread() is threading.main_thread()
        self._snapshots.put_nowait(snapshot)

    async def wait(self) -> Snapshot:
        return await asyncio.wait_for(self._snapshots.get(), TIMEOUT)

    async def wait_for_key(self, name: str, *, is_disabled: bool = False) -> Key:
        while True:
            for key in (await self.wait()).keyring:
                if (key.name, key.is_disabled) == (name, is_disabled):
                    return key


class BrokenStore:
    """A database that cannot be opened until it is mended."""

    def __init__(self, url: str) -> None:
        self.failed = threading.Event()
        self.mended = threading.Event()
        self._url = url

    def open(self, create: bool) -> Store:
        if not self.mended.is_set():
            self.failed.set()
            raise StoreError("It is broken.")
        return Store(self._url, create=create)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def writer_of(url: str) -> StoreWriter:
    return StoreWriter(lambda create: Store(url, create=create), keep_usage=1e9)


def stored_ids(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in connection.execute("SELECT id FROM gateway_usage")}


async def close(writer: StoreWriter) -> bool:
    return await asyncio.to_thread(writer.close, TIMEOUT)


async def test_the_loop_is_told_at_once_what_is_in_the_database(url: str) -> None:
    """A gateway can serve when it knows its keys."""
    with closing(Store(url)) as store:
        store.add_key(new_key("bob", created=1.0)[1])
    writer, inbox = writer_of(url), Inbox()

    writer.start(inbox.put)

    assert [key.name for key in (await inbox.wait()).keyring] == ["bob"]
    assert await close(writer)


async def test_records_are_stored_soon(url: str, path: Path) -> None:
    """Nothing has to be closed for that."""
    writer, inbox = writer_of(url), Inbox()
    writer.start(inbox.put)
    await inbox.wait()

    now = time.time()
    writer.record(paid("k1", 1.0, id="1", time=now))
    while not (await inbox.wait()).stored:
        pass

    assert stored_ids(path) == {"1"}
    assert writer.num_queued == 0
    assert await close(writer)


async def test_closing_stores_what_is_left(url: str, path: Path) -> None:
    """A gateway that is stopped loses nothing."""
    writer = writer_of(url)
    writer.start(Inbox().put)
    records = [record_of() for _ in range(3 * MAX_BATCH)]
    for record in records:
        writer.record(record)

    assert await close(writer)

    assert stored_ids(path) == {record.id for record in records}


async def test_a_running_gateway_learns_of_keys(url: str) -> None:
    """Made and revoked by another process."""
    writer, inbox = writer_of(url), Inbox()
    writer.start(inbox.put)
    await inbox.wait()

    with closing(Store(url)) as store:
        store.add_key(new_key("bob", created=1.0)[1])
        key = await inbox.wait_for_key("bob")
        store.disable_key(key.id)
    await inbox.wait_for_key("bob", is_disabled=True)

    assert await close(writer)


async def test_while_the_database_is_away_records_wait(url: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says once that it is away, and once that it is back."""
    broken = BrokenStore(url)
    writer, inbox = StoreWriter(broken.open, keep_usage=1e9), Inbox()
    writer.start(inbox.put)
    await asyncio.to_thread(broken.failed.wait, TIMEOUT)

    writer.record(record_of(id="1"))
    broken.failed.clear()
    await asyncio.to_thread(broken.failed.wait, TIMEOUT)
    assert (writer.is_ok, writer.num_queued) == (False, 1)
    broken.mended.set()
    await inbox.wait()

    assert writer.is_ok
    assert stored_ids(path) == {"1"}
    assert [(record.levelno, "It is broken." in record.message) for record in caplog.records] == [
        (logging.ERROR, True),
        (logging.WARNING, False),
    ]
    assert await close(writer)


async def test_closing_does_not_wait_for_a_database_that_is_away(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is lost then is counted."""
    writer = StoreWriter(BrokenStore(url).open, keep_usage=1e9)
    writer.start(Inbox().put)
    writer.record(record_of())

    assert not await close(writer)

    assert "1 usage records could not be stored" in caplog.text


async def test_an_unexpected_error_does_not_end_the_thread(
    url: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it no key would be revoked any more."""
    errors = [ZeroDivisionError("a mistake of ours")]

    def open_store(create: bool) -> Store:
        if errors:
            raise errors.pop()
        return Store(url, create=create)

    writer, inbox = StoreWriter(open_store, keep_usage=1e9), Inbox()
    writer.record(record_of(id="1"))
    writer.start(inbox.put)
    await inbox.wait()

    assert stored_ids(path) == {"1"}
    assert "a mistake of ours" in caplog.text
    assert await close(writer)


async def test_a_full_queue_is_no_reason_to_wait(url: str) -> None:
    """Recording goes on whatever the database does; the oldest records are lost and counted."""
    writer = StoreWriter(BrokenStore(url).open, keep_usage=1e9, max_queued=10)

    for _ in range(25):
        writer.record(record_of())

    assert (writer.num_queued, writer.num_dropped) == (10, 15)


def test_a_killed_process_loses_a_moment_only(url: str, path: Path) -> None:
    """kill -9 at 200 requests a second: what is older than a second is there, no key is lost, the file is whole."""
    key = new_key("bob", created=1.0)[1]
    with closing(Store(url)) as store:
        store.add_key(key)
    command = [sys.executable, str(ROOT / "tests" / "gateway" / "recording_process.py"), url]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'gateway'}"}
    recorded: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            moment, record_id = line.split()
            recorded[record_id] = float(moment)
            if len(recorded) == 500:
                process.kill()
                killed = time.monotonic()

    stored = stored_ids(path)
    missing = {record_id for record_id, moment in recorded.items() if moment < killed - KEPT_SECONDS} - stored
    assert not missing
    assert stored
    with closing(Store(url)) as store:
        assert store.all_keys() == [key]
        assert store.spends(1_795_348_800.0)["k1", "2026-11"] == len(stored)


async def test_two_gateways_on_one_file(url: str, path: Path) -> None:
    """Nothing is lost, and each learns what the other has spent."""
    writers, inboxes = [writer_of(url), writer_of(url)], [Inbox(), Inbox()]
    for writer, inbox in zip(writers, inboxes, strict=True):
        writer.start(inbox.put)
        await inbox.wait()
    records = [[paid("k1", 1.0, time=time.time()) for _ in range(1000)] for _ in writers]

    for pair in zip(*records, strict=True):
        for writer, record in zip(writers, pair, strict=True):
            writer.record(record)
            await asyncio.sleep(0)

    for inbox in inboxes:
        while 2000.0 not in (await inbox.wait()).spends.values():
            pass
    assert stored_ids(path) == {record.id for each in records for record in each}
    for writer in writers:
        assert await close(writer)
