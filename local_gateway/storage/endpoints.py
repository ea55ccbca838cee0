"""What RunPod's workers are billed for in the database, and what each endpoint's tokens and cold starts come to."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select, text

from local_gateway.accounts.worker_runs import WorkerRun
from local_gateway.storage import tables

# A run is stored again and again while it lasts, perhaps by several gateways: none takes anything back.
KEEP_RUN = text(
    "INSERT INTO gateway_worker_runs"
    " (endpoint, worker_id, started, day, num_starts, billed_seconds, start_seconds, price)"
    " VALUES (:endpoint, :worker_id, :started, :day, :num_starts, :billed_seconds, :start_seconds, :price)"
    " ON CONFLICT (endpoint, worker_id, started, day) DO UPDATE SET"
    " billed_seconds = CASE WHEN excluded.billed_seconds > gateway_worker_runs.billed_seconds"
    " THEN excluded.billed_seconds ELSE gateway_worker_runs.billed_seconds END,"
    " start_seconds = COALESCE(gateway_worker_runs.start_seconds, excluded.start_seconds)"
)


class EndpointSum(NamedTuple):
    """What the workers of one RunPod endpoint were billed for, and the tokens that requests had of them."""

    endpoint: str  # its id
    num_starts: int  # of workers
    billed_seconds: int  # each run rounded up, as RunPod does
    start_seconds: float  # of these until the workers were ready, where that was seen
    num_seen_starts: int  # for which it was
    cost: float  # what RunPod takes
    start_cost: float  # of these seconds until workers were ready
    num_prompt_tokens: int
    num_completion_tokens: int

    @property
    def million_cost(self) -> float | None:
        """Of a million completion tokens: prompts, starts and idle time are in it. None: there are no tokens."""
        return 1e6 * self.cost / self.num_completion_tokens if self.num_completion_tokens else None

    @property
    def cold_start_cost(self) -> float | None:
        """Of one start until the worker is ready; the idle time after its work is not in it. None: none was seen."""
        return self.start_cost / self.num_seen_starts if self.num_seen_starts else None

    @property
    def cells(self) -> tuple[object, ...]:
        """What people are shown: sums first, prices last. None: there is no price."""
        return (
            *(self.endpoint, self.num_starts, self.billed_seconds, self.start_seconds, self.num_prompt_tokens),
            *(self.num_completion_tokens, self.cost, self.million_cost, self.cold_start_cost),
        )


def keep_runs(connection: Connection, runs: Iterable[WorkerRun]) -> None:
    """In one order in all processes, so that no two wait for each other."""
    in_order = sorted(runs, key=lambda run: (run.endpoint, run.worker_id, run.started))
    connection.execute(KEEP_RUN, [row for run in in_order for row in _rows_of(run)])


def endpoint_sums(connection: Connection, since: str) -> list[EndpointSum]:
    """Of endpoints whose workers were seen since a day, in UTC; the dearest first."""
    runs, usage = tables.worker_runs, tables.usage
    tokens = (
        select(
            usage.c.endpoint,
            func.sum(usage.c.num_prompt_tokens).label("prompt"),
            func.sum(usage.c.num_completion_tokens).label("completion"),
        )
        .where(usage.c.day >= since, usage.c.endpoint != "")
        .group_by(usage.c.endpoint)
        .subquery()
    )
    cost = func.sum(runs.c.billed_seconds * runs.c.price)
    query = (
        select(
            runs.c.endpoint,
            func.sum(runs.c.num_starts),
            func.sum(runs.c.billed_seconds),
            func.coalesce(func.sum(runs.c.start_seconds), 0.0),
            func.count(runs.c.start_seconds),
            cost,
            func.coalesce(func.sum(runs.c.start_seconds * runs.c.price), 0.0),
            func.coalesce(func.max(tokens.c.prompt), 0),
            func.coalesce(func.max(tokens.c.completion), 0),
        )
        .join_from(runs, tokens, runs.c.endpoint == tokens.c.endpoint, isouter=True)
        .where(runs.c.day >= since)
        .group_by(runs.c.endpoint)
        .order_by(cost.desc(), runs.c.endpoint)
    )
    return [  # PostgreSQL sums big integers to decimals
        EndpointSum(row[0], int(row[1]), int(row[2]), row[3], row[4], row[5], row[6], int(row[7]), int(row[8]))
        for row in connection.execute(query)
    ]


def _rows_of(run: WorkerRun) -> list[dict[str, Any]]:
    """One for each day. The first has the start."""
    same = {"endpoint": run.endpoint, "worker_id": run.worker_id.replace("\0", ""), "started": run.started}
    rows: list[dict[str, Any]] = []
    for day, billed_seconds in run.billed_by_day():
        start = {"num_starts": int(not rows), "start_seconds": None if rows else run.start_seconds}
        rows.append({**same, **start, "day": day, "billed_seconds": billed_seconds, "price": run.price})
    return rows
