"""What RunPod's workers are billed for, as looks at them tell."""

import pytest

from local_gateway.accounts.worker_runs import EXPECTED_START, MAX_GAP, WorkerRun, WorkerRuns
from local_gateway.wire.worker_list import SeenWorker
from tests.gateway.usage_samples import NOON

MIDNIGHT = NOON + 43_200


def seen(uptime: float, *, is_ready: bool = True, worker_id: str = "w1", started: float = NOON) -> SeenWorker:
    return SeenWorker(worker_id, started, uptime, is_ready)


def run_of(seconds: float, started: float = NOON) -> WorkerRun:
    return WorkerRun(endpoint="ep", worker_id="w1", started=started, seconds=seconds, price=1.0)


@pytest.fixture
def runs() -> WorkerRuns:
    """That have looked once already, at 0, when no worker ran."""
    runs = WorkerRuns("ep", 0.5)
    assert runs.look(0, []) == []
    return runs


def test_a_run_from_start_to_stop(runs: WorkerRuns) -> None:
    """It grows while it is seen, and ends in the middle of the gap in which it went."""
    (loading,) = runs.look(2, [seen(1, is_ready=False)])
    (ready,) = runs.look(4, [seen(3)])
    (ended,) = runs.look(6, [])

    assert (loading.endpoint, loading.worker_id, loading.started, loading.price) == ("ep", "w1", NOON, 0.5)
    assert [run.seconds for run in (loading, ready, ended)] == [1, 3, 4]
    assert runs.look(8, []) == []


def test_how_long_a_start_took(runs: WorkerRuns) -> None:
    """Until the middle of the gap in which the worker became ready; it stays known."""
    assert runs.start_seconds == EXPECTED_START

    starts = [runs.look(now, [seen(now - 1, is_ready=now > 10)])[0].start_seconds for now in (2, 8, 11, 20)]

    assert starts == [None, None, 8.5, 8.5]
    assert runs.start_seconds == 8.5


def test_a_worker_that_is_ready_at_its_first_look(runs: WorkerRuns) -> None:
    """It started since the look before, so in the middle of that; one that is older was not seen to start."""
    young, old = runs.look(2, [seen(1), seen(50, worker_id="w2")])

    assert (young.start_seconds, old.start_seconds) == (0.5, None)


def test_a_gateway_that_starts_while_a_worker_runs() -> None:
    """All its seconds count, but not as a start."""
    runs = WorkerRuns("ep", 1.0)

    (run,) = runs.look(1000, [seen(500)])

    assert (run.seconds, run.start_seconds, runs.num_running) == (500, None, 1)


def test_by_how_much_the_bill_grows(runs: WorkerRuns) -> None:
    """From look to look, in begun seconds, until the runs are over: together it is the bill."""
    grown = []
    for now, workers in ((2, [seen(0.4)]), (4, [seen(2.4), seen(1, worker_id="w2")]), (6, [seen(3, worker_id="w2")])):
        runs.look(now, workers)
        grown.append((runs.new_seconds, runs.new_starts))
    (ended,) = runs.look(8, [])

    assert grown == [(1, 1), (3, 1), (3, 0)]
    assert (runs.new_seconds, ended.billed_seconds) == (1, 4)


def test_what_ran_before_the_first_look() -> None:
    """It is another gateway's, or this one's before a restart: only what comes after is new."""
    runs = WorkerRuns("ep", 1.0)

    runs.look(1000, [seen(500)])
    first = runs.new_seconds, runs.new_starts
    runs.look(1002, [seen(502)])

    assert first == (0, 0)
    assert (runs.new_seconds, runs.new_starts) == (2, 0)


def test_a_worker_that_comes_back(runs: WorkerRuns) -> None:
    """With another start it is another run."""
    runs.look(2, [seen(1)])

    before, after = runs.look(4, [seen(0, started=NOON + 3)])

    assert (before.started, before.seconds) == (NOON, 2)
    assert (after.started, after.seconds) == (NOON + 3, 0)


def test_looks_that_fail(runs: WorkerRuns) -> None:
    """How many run is unknown then; what was seen before them still counts at the next look."""
    runs.look(2, [seen(1)])
    runs.look_failed()
    unknown = runs.num_running

    (ended,) = runs.look(8, [])

    assert (unknown, runs.num_running) == (None, 0)
    assert ended.seconds == 1 + 3


def test_after_a_long_gap_little_is_concluded(runs: WorkerRuns) -> None:
    """A run that ended in it is not taken to have lasted for half of it, and no start is measured by it."""
    runs.look(2, [seen(1, is_ready=False, worker_id="w2"), seen(1, is_ready=False)])

    ended, ready, new = runs.look(1000, [seen(999, worker_id="w2"), seen(600, worker_id="w3")])

    assert (ended.worker_id, ended.seconds) == ("w1", 1 + MAX_GAP / 2)
    assert (ready.seconds, ready.start_seconds, new.start_seconds) == (999, None, None)
    assert runs.start_seconds == EXPECTED_START


@pytest.mark.parametrize(
    ("run", "days"),
    [
        (run_of(0.2), [("2026-11-22", 1)]),
        (run_of(10), [("2026-11-22", 10)]),
        (run_of(12, MIDNIGHT - 10), [("2026-11-22", 10), ("2026-11-23", 2)]),
        (run_of(10, MIDNIGHT - 10), [("2026-11-22", 10)]),
        (run_of(10.1, MIDNIGHT - 10), [("2026-11-22", 10), ("2026-11-23", 1)]),
        (run_of(10.5, MIDNIGHT - 0.25), [("2026-11-22", 1), ("2026-11-23", 10)]),
        (run_of(2 * 86_400, MIDNIGHT - 1), [("2026-11-22", 1), ("2026-11-23", 86_400), ("2026-11-24", 86_399)]),
    ],
)
def test_the_bill_of_each_day(run: WorkerRun, days: list[tuple[str, int]]) -> None:
    """A begun second is a second, once: the days together are the run."""
    assert list(run.billed_by_day()) == days
    assert sum(seconds for _, seconds in days) == run.billed_seconds
