"""A connection to the database: SQLite in a file, or PostgreSQL. Knows transactions, no tables."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError

from local_gateway.errors import ConfigError, StoreError, one_line

BUSY_SECONDS = 3.0  # how long another process's transaction is waited for
CONNECT_SECONDS = 5
LOCK_SECONDS = 10.0  # how long another process that opens the database is waited for
LOCK_PAUSE = 0.02
STATEMENT_TIMEOUT = "15s"


class RefusedRowError(StoreError):
    """The database works, but does not take this row."""


class Database:
    """Opened and used by one thread; it connects when it is first needed. All its errors are StoreErrors."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError if it is not a URL of a database that can be used."""
        self.url = _usable(url)
        self.path = Path(self.url.database or "") if self._is_sqlite else None
        self._file_id: tuple[int, int] | None = None
        options = _sqlite_options() if self._is_sqlite else _postgres_options()
        try:
            # One connection: there is one thread. Parameters hold names and hashes, which are nothing for a log.
            self.engine = create_engine(self.url, pool_size=1, max_overflow=0, hide_parameters=True, **options)
        except ModuleNotFoundError as error:
            raise ConfigError(f"database.url: for {self.url.drivername}:// install {error.name}.") from error
        event.listen(self.engine, "begin", self._begin)
        if self._is_sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)

    @property
    def _is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._transaction(is_writing=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is written as a whole or, if anything is raised, not at all."""
        with self._transaction(is_writing=True) as connection:
            yield connection

    @contextmanager
    def opening(self, *, create: bool) -> Iterator[None]:
        """Only one process at a time makes the file and its tables. Other databases lock in the transaction.

        Raises StoreError without `create` if there is no file.
        """
        if self.path is None:
            yield
            return
        if not create and _file_id(self.path) is None:
            raise StoreError(f"{self.path} is missing or empty: restore it, or start the gateway again.")
        with _as_store_errors(), _locked(self.path.parent):
            if create:
                _make_file(self.path)
            yield
            self._file_id = _file_id(self.path)

    def check_file(self) -> None:
        """Raises StoreError if the file was deleted, emptied or replaced: what is written to the old one is lost."""
        if self.path is not None and _file_id(self.path) != self._file_id:
            raise StoreError(f"{self.path} was deleted, emptied or replaced.")

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _transaction(self, *, is_writing: bool) -> Iterator[Connection]:
        with _as_store_errors(), self.engine.connect() as connection:
            connection.execution_options(is_writing=is_writing)
            with connection.begin():
                yield connection

    def _begin(self, connection: Connection) -> None:
        if not self._is_sqlite:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'")
        elif connection.get_execution_options().get("is_writing"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # waits for its turn, where a later upgrade would fail
        else:
            connection.exec_driver_sql("BEGIN")


def _usable(url: str) -> URL:
    """Messages do not repeat the URL: there may be a password in it."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError("database.url is not a URL: use sqlite:///PATH or postgresql://...") from error
    if parsed.drivername == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed.set(database=os.path.realpath(os.path.expanduser(parsed.database)))
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(f"database.url cannot begin with {parsed.drivername}: use sqlite:///PATH or postgresql://...")


def _sqlite_options() -> dict[str, Any]:
    # None: the driver begins no transactions by itself, which it would do too late and not for tables.
    return {"connect_args": {"timeout": BUSY_SECONDS, "isolation_level": None, "check_same_thread": False}}


def _postgres_options() -> dict[str, Any]:
    # Without prepared statements, so that it also works through PgBouncer.
    arguments = {"connect_timeout": CONNECT_SECONDS, "application_name": "local_gateway", "prepare_threshold": None}
    return {"connect_args": arguments, "pool_pre_ping": True}


def _set_up_sqlite(connection: Any, _record: object) -> None:
    """A commit survives a killed process at once; a power failure may take the last ones, never the whole."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


@contextmanager
def _as_store_errors() -> Iterator[None]:
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise RefusedRowError(_reason(error)) from error
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Without the statement, and without PostgreSQL's details, which repeat rows."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return one_line(str(cause).partition("\nDETAIL:")[0])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock_in_time(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock_in_time(descriptor: int, folder: Path) -> None:
    """Raises StoreError: any program that may open the folder can hold the lock for ever."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreError(f"{folder} is locked by another program for more than {LOCK_SECONDS:g} s.") from None
            time.sleep(LOCK_PAUSE)
        else:
            return


def _make_file(path: Path) -> None:
    """Readable by its owner only, and without the journal of a file that was deleted or emptied."""
    if _file_id(path) is not None:
        return
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _file_id(path: Path) -> tuple[int, int] | None:
    """None if there is no file, or nothing in it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None
