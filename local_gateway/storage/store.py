"""Keys, usage and spending in the database. Blocking: for the writer's thread and for commands."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any, Literal, NamedTuple

from sqlalchemy import Column, Connection, RowMapping, delete, func, inspect, select, text, update

from local_gateway.accounts.keys import Key
from local_gateway.accounts.spend import Spends, name_of, periods_of
from local_gateway.accounts.usage import UsageRecord
from local_gateway.accounts.worker_runs import WorkerRun
from local_gateway.errors import StoreError
from local_gateway.storage import tables
from local_gateway.storage.database import Database, RefusedRowError
from local_gateway.storage.endpoints import EndpointSum, endpoint_sums, keep_runs

Grouping = Literal["key", "user", "model", "target", "day"]

GROUPINGS: dict[Grouping, Column[str]] = {
    "key": tables.usage.c.key_name,
    "user": tables.usage.c.end_user,
    "model": tables.usage.c.model,
    "target": tables.usage.c.target,
    "day": tables.usage.c.day,
}
COLUMNS = [field.name for field in fields(UsageRecord)]
MAX_TEXT = 300  # characters of what a client named
MAX_DELETED = 5000  # records in one transaction
MAX_INSERTED = 128  # records in one statement
OPENING_LOCK = 7238110742  # any number, the same in all gateways

ADD_SPEND = text(
    "INSERT INTO gateway_spend (key_id, period, amount) VALUES (:key_id, :period, :amount)"
    " ON CONFLICT (key_id, period) DO UPDATE SET amount = gateway_spend.amount + excluded.amount"
)


class UsageSum(NamedTuple):
    """All requests of one group."""

    group: str
    num_requests: int
    num_failed: int  # with a status of 400 or more
    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int
    cost: float
    first_token_seconds: float | None  # the mean


class Store:
    """One database whose tables exist. Every method is one transaction and raises StoreError."""

    def __init__(self, url: str, *, create: bool = True) -> None:
        """Connect. Tables that are missing are made, or are a StoreError without `create`."""
        self.database = Database(url)
        try:
            self._open(create=create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.database.close()

    def check_file(self) -> None:
        """Raises StoreError if the database is a file that is not there any more."""
        self.database.check_file()

    # Usage

    def add(self, records: Sequence[UsageRecord]) -> Spends:
        """Add all records and their costs, or none; returns the costs. RefusedRowError: a record cannot be stored."""
        with _bad_values_refused(), self.database.write() as connection:
            spends = spends_of(records)
            _insert_usage(connection, [_row_of(record) for record in records])
            if spends:
                connection.execute(ADD_SPEND, _spend_rows(spends))
        return spends

    def holds(self, record: UsageRecord) -> bool:
        query = select(tables.usage.c.id).where(tables.usage.c.id == record.id)
        with self.database.read() as connection:
            return connection.execute(query).first() is not None

    def spends(self, now: float) -> Spends:
        """Of this day and this month."""
        query = select(tables.spend).where(tables.spend.c.period.in_(periods_of(now)))
        with self.database.read() as connection:
            return {(row.key_id, row.period): row.amount for row in connection.execute(query)}

    def forget_before(self, time: float) -> bool:
        """Delete some of the older records; whether there may be more."""
        usage, spend, runs = tables.usage, tables.spend, tables.worker_runs
        old = select(usage.c.id).where(usage.c.time < time).limit(MAX_DELETED)
        with self.database.write() as connection:
            num_deleted = connection.execute(delete(usage).where(usage.c.id.in_(old))).rowcount
            connection.execute(delete(spend).where(spend.c.period < name_of("month", time)))
            connection.execute(delete(runs).where(runs.c.day < name_of("day", time)))
        return num_deleted == MAX_DELETED

    def usage_by(self, grouping: Grouping, since: str = "", key_id: str | None = None) -> list[UsageSum]:
        """The dearest first, days in order. `since` is a day, in UTC: 2026-11-22. `key_id`: of this key alone."""
        usage, group = tables.usage, GROUPINGS[grouping]
        query = (
            select(
                group,
                func.count(),
                func.count().filter(usage.c.status >= 400),
                func.sum(usage.c.num_prompt_tokens),
                func.sum(usage.c.num_cached_tokens),
                func.sum(usage.c.num_completion_tokens),
                func.sum(usage.c.cost),
                func.avg(usage.c.first_token_seconds),
            )
            .where(usage.c.day >= since, *([] if key_id is None else [usage.c.key_id == key_id]))
            .group_by(group)
            .order_by(*([group] if grouping == "day" else [func.sum(usage.c.cost).desc(), group]))
        )
        with self.database.read() as connection:
            # PostgreSQL sums big integers to decimals.
            return [
                UsageSum(row[0], row[1], row[2], *map(int, row[3:6]), *row[6:]) for row in connection.execute(query)
            ]

    # Workers

    def keep_runs(self, runs: Sequence[WorkerRun]) -> None:
        """As they are now; one that is stored already is brought up to date. RefusedRowError: one cannot be stored."""
        with _bad_values_refused(), self.database.write() as connection:
            keep_runs(connection, runs)

    def endpoints(self, since: str = "") -> list[EndpointSum]:
        """The dearest first. `since` is a day, in UTC: 2026-11-22."""
        with self.database.read() as connection:
            return endpoint_sums(connection, since)

    # Keys

    def all_keys(self) -> list[Key]:
        """All, in the order in which they were made."""
        query = select(tables.keys).order_by(tables.keys.c.created, tables.keys.c.id)
        with self.database.read() as connection:
            return [_key_of(row) for row in connection.execute(query).mappings()]

    def add_key(self, key: Key) -> None:
        """RefusedRowError: another active key has this name."""
        with self.database.write() as connection:
            connection.execute(tables.keys.insert(), _row_of_key(key))

    def disable_key(self, key_id: str) -> None:
        """Keys are never deleted: their usage has their name."""
        with self.database.write() as connection:
            connection.execute(update(tables.keys).where(tables.keys.c.id == key_id).values(is_disabled=True))

    # Opening

    def _open(self, *, create: bool) -> None:
        with self.database.opening(create=create):
            version = self._version()
            if version is not None and version in tables.MIGRATIONS:
                with self.database.write() as connection:
                    version = _migrate(connection)
            if version is not None and version != tables.SCHEMA_VERSION:
                name = self.database.url.render_as_string(hide_password=True)
                reason = f"its schema is number {version}, and this gateway knows {tables.SCHEMA_VERSION}"
                raise StoreError(f"{name} was made by another version of the gateway: {reason}.")
            if version is None:
                if not create:
                    raise StoreError("The gateway's tables are gone: restore them, or start the gateway again.")
                with self.database.write() as connection:
                    _make_tables(connection)

    def _version(self) -> int | None:
        """None: there are no tables yet."""
        with self.database.read() as connection:
            if not inspect(connection).has_table(tables.schema.name):
                return None
            version: int | None = connection.execute(select(func.max(tables.schema.c.version))).scalar_one()
            return version


def _insert_usage(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """In few statements. For each row of many the driver gives the GIL away, and gets it back late from a busy loop.

    Their sizes are powers of two, because every other size would be another statement in the driver's cache.
    """
    start = 0
    while left := len(rows) - start:
        size = min(MAX_INSERTED, 1 << (left.bit_length() - 1))
        _insert_together(connection, rows[start : start + size])
        start += size


def _insert_together(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    names = list(rows[0])
    values = ", ".join([f"({', '.join([mark] * len(names))})"] * len(rows))
    statement = f"INSERT INTO {tables.usage.name} ({', '.join(names)}) VALUES {values}"  # noqa: S608 (our own names)
    connection.exec_driver_sql(statement, tuple(value for row in rows for value in row.values()))


def _lock_opening(connection: Connection) -> None:
    """SQLite's write transaction is such a lock by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(OPENING_LOCK)))


def _migrate(connection: Connection) -> int:
    """Bring an older database to this version, in one transaction; returns the version it has then."""
    _lock_opening(connection)
    version: int = connection.execute(select(func.max(tables.schema.c.version))).scalar_one()
    while version in tables.MIGRATIONS:  # unless another gateway did it meanwhile
        for statement in tables.MIGRATIONS[version]:
            connection.execute(text(statement))
        version += 1
        connection.execute(update(tables.schema).values(version=version))
    return version


def _make_tables(connection: Connection) -> None:
    """In one transaction with the schema's version, so that no process sees half of the tables."""
    _lock_opening(connection)
    if not inspect(connection).has_table(tables.schema.name):
        tables.metadata.create_all(connection)
        connection.execute(tables.schema.insert(), {"version": tables.SCHEMA_VERSION})


@contextmanager
def _bad_values_refused() -> Iterator[None]:
    """Some never reach the database: no calendar, no driver takes them."""
    try:
        yield
    except (OverflowError, ValueError, TypeError) as error:
        raise RefusedRowError(str(error)) from error


def spends_of(records: Iterable[UsageRecord]) -> Spends:
    """What they cost each key in each period."""
    spends: defaultdict[tuple[str, str], float] = defaultdict(float)
    for record in records:
        if record.key_id and record.cost:
            for period in periods_of(record.time):
                spends[record.key_id, period] += record.cost
    return spends


def _spend_rows(spends: Spends) -> list[dict[str, Any]]:
    """In one order in all processes, so that no two wait for each other."""
    return [{"key_id": key_id, "period": period, "amount": spends[key_id, period]} for key_id, period in sorted(spends)]


def _row_of(record: UsageRecord) -> dict[str, Any]:
    row = {name: _storable(getattr(record, name)) for name in COLUMNS}
    return {**row, "day": name_of("day", record.time)}


def _storable(value: object) -> object:
    """Clients name models as they like; PostgreSQL takes no NUL, and a name has a bounded length."""
    return value.replace("\0", "")[:MAX_TEXT] if isinstance(value, str) else value


def _row_of_key(key: Key) -> dict[str, Any]:
    return {**asdict(key), "models": ",".join(key.models)}


def _key_of(row: RowMapping) -> Key:
    return Key(**{**row, "models": tuple(filter(None, row["models"].split(",")))})
