"""The tables of the database, the same in SQLite and PostgreSQL."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    false,
)

SCHEMA_VERSION = 4
# What makes a database of version N one of version N + 1, in both dialects.
MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: ("ALTER TABLE gateway_keys ADD COLUMN is_admin BOOLEAN NOT NULL DEFAULT FALSE",),
    2: ("ALTER TABLE gateway_usage ADD COLUMN end_user TEXT NOT NULL DEFAULT ''",),
    3: (
        "ALTER TABLE gateway_usage ADD COLUMN endpoint TEXT NOT NULL DEFAULT ''",
        "CREATE TABLE gateway_worker_runs (endpoint TEXT NOT NULL, worker_id TEXT NOT NULL,"
        " started DOUBLE PRECISION NOT NULL, day TEXT NOT NULL, num_starts INTEGER NOT NULL,"
        " billed_seconds BIGINT NOT NULL, start_seconds DOUBLE PRECISION, price DOUBLE PRECISION NOT NULL,"
        " PRIMARY KEY (endpoint, worker_id, started, day))",
    ),
}

metadata = MetaData()

schema = Table("gateway_schema", metadata, Column("version", Integer, primary_key=True))

keys = Table(
    "gateway_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    Column("models", Text, nullable=False),  # separated by commas
    Column("max_rpm", BigInteger, CheckConstraint("max_rpm > 0")),
    Column("max_tpm", BigInteger, CheckConstraint("max_tpm > 0")),
    Column("max_concurrency", BigInteger, CheckConstraint("max_concurrency > 0")),
    Column("budget", Double, CheckConstraint("budget >= 0")),
    Column("period", Text, CheckConstraint("period IN ('day', 'month')"), nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("is_admin", Boolean, nullable=False, server_default=false()),
    Column("is_disabled", Boolean, nullable=False),
)
_is_active = keys.c.is_disabled == false()
Index(  # the name of a key that was revoked is free again
    "gateway_keys_name", keys.c.name, unique=True, sqlite_where=_is_active, postgresql_where=_is_active
)

usage = Table(
    "gateway_usage",
    metadata,
    Column("id", Text, primary_key=True),
    Column("time", Double, nullable=False, index=True),
    Column("day", Text, nullable=False),  # of `time`, in UTC
    Column("request_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("key_name", Text, nullable=False),
    Column("end_user", Text, nullable=False, server_default=""),
    Column("alias", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("endpoint", Text, nullable=False, server_default=""),
    Column("path", Text, nullable=False),
    Column("is_stream", Boolean, nullable=False),
    Column("status", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("num_prompt_tokens", BigInteger, nullable=False),
    Column("num_cached_tokens", BigInteger, nullable=False),
    Column("num_completion_tokens", BigInteger, nullable=False),
    Column("is_estimated", Boolean, nullable=False),
    Column("cost", Double, nullable=False),
    Column("execution_seconds", Double),
    Column("queue_seconds", Double),
    Column("first_token_seconds", Double),
    Column("total_seconds", Double, nullable=False),
    Column("num_attempts", Integer, nullable=False),
    Column("is_cold", Boolean, nullable=False),
    Column("sharing", Text, nullable=False),
)

spend = Table(
    "gateway_spend",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("period", Text, primary_key=True),  # "2026-11-22" or "2026-11", in UTC
    Column("amount", Double, nullable=False),
)

worker_runs = Table(
    "gateway_worker_runs",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("worker_id", Text, primary_key=True),
    Column("started", Double, primary_key=True),  # seconds since 1970: these three name one run
    Column("day", Text, primary_key=True),  # in UTC; the rest is about the part of the run in it
    Column("num_starts", Integer, nullable=False),  # 1 where the run began, else 0
    Column("billed_seconds", BigInteger, nullable=False),
    Column("start_seconds", Double),  # until the worker was ready, where that was seen
    Column("price", Double, nullable=False),  # per second
)
