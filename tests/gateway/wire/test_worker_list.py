"""RunPod's list of workers."""

from typing import Any

import pytest

from local_gateway.errors import AnswerBrokenError
from local_gateway.wire.worker_list import SeenWorker, workers_in

STARTED = {"id": "8g3n5t6r", "uptimeSeconds": 3600, "startedAt": "2026-11-22T12:00:00Z"}
NOON = 1_795_348_800.0


@pytest.mark.parametrize(
    ("status", "is_ready"), [("RUNNING", True), ("IDLE", True), ("INITIALIZING", False), ("UNHEALTHY", False)]
)
def test_workers_that_are_billed(status: str, is_ready: bool) -> None:
    """Whatever they do: loading, computing, waiting, or being ill."""
    assert workers_in({"workers": [{**STARTED, "status": status}]}) == [SeenWorker("8g3n5t6r", NOON, 3600.5, is_ready)]


def test_uptimes() -> None:
    """Of whole seconds half a second is missing on average, as of a bill that is rounded up; fractions are exact."""
    workers = [{**STARTED, "status": "IDLE", "uptimeSeconds": uptime} for uptime in (0, 7, 7.25)]

    assert [worker.uptime for worker in workers_in({"workers": workers})] == [0.5, 7.5, 7.25]


@pytest.mark.parametrize(
    "worker",
    [
        {"id": "w", "status": "INITIALIZING", "uptimeSeconds": None, "startedAt": None},
        {"id": "w", "status": "INITIALIZING"},
        {**STARTED, "status": "IDLE", "uptimeSeconds": None},
        {**STARTED, "status": "THROTTLED"},
    ],
)
def test_workers_that_are_not(worker: dict[str, Any]) -> None:
    """They wait for a machine, or for their image."""
    assert workers_in({"workers": [worker], "summary": {"total": 1}}) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"workers": None},
        {"workers": ["w1"]},
        {"workers": [{**STARTED, "id": 7}]},
        {"workers": [{**STARTED, "uptimeSeconds": "long"}]},
        {"workers": [{**STARTED, "uptimeSeconds": float("inf")}]},
        {"workers": [{**STARTED, "uptimeSeconds": -1}]},
        {"workers": [{**STARTED, "startedAt": "yesterday"}]},
    ],
)
def test_what_is_no_list_of_workers(body: dict[str, Any]) -> None:
    """A worker that cannot be read is not left out in silence: its seconds would be missing."""
    with pytest.raises(AnswerBrokenError):
        workers_in(body)
