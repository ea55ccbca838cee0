"""Laps of a start, and when the process began."""

import time
from pathlib import Path

import pytest

from handler import stopwatch
from handler.stopwatch import Stopwatch, process_started


def test_laps_add_up() -> None:
    """Each lap is the time since the one before, the first since the start."""
    stopwatch = Stopwatch(time.monotonic() - 2)
    stopwatch.lap("model")
    stopwatch.lap("worker")

    assert str(stopwatch) == "2.00 s (model 2.00, worker 0.00)"


def test_process_began_before_this_test() -> None:
    """Not so long ago as the machine."""
    assert 0 < time.monotonic() - process_started() < 24 * 3600


def test_process_began_now_where_its_start_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A start is then timed from where the worker's own code begins."""
    monkeypatch.setattr(stopwatch, "STAT", tmp_path / "stat")

    assert time.monotonic() - process_started() < 1
