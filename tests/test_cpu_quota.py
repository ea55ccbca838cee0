"""The cores of a container."""

import os
from pathlib import Path

import pytest

from handler.cpu_quota import SPIN_COUNT, num_usable_cores, share_cores


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


@pytest.mark.parametrize(
    ("limit", "num_cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("6400000 100000\n", 8),
    ],
)
def test_a_quota_counts_like_cores(tmp_path: Path, limit: str, num_cores: int) -> None:
    """Half a core is one, because something must run; a quota above the cores there are changes nothing."""
    write(tmp_path / "cpu.max", limit)
    assert num_usable_cores(tmp_path) == num_cores


@pytest.mark.parametrize(("quota", "num_cores"), [("-1\n", 8), ("300000\n", 3)])
def test_older_systems_keep_the_quota_elsewhere(tmp_path: Path, quota: str, num_cores: int) -> None:
    """Version 1 of cgroups has a file for each number."""
    write(tmp_path / "cpu/cpu.cfs_quota_us", quota)
    write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    assert num_usable_cores(tmp_path) == num_cores


def test_no_container_no_quota(tmp_path: Path) -> None:
    """Where the system tells nothing, every core counts."""
    assert num_usable_cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"GOMP_SPINCOUNT": SPIN_COUNT}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_do_not_spin_for_long(before: dict[str, str], after: dict[str, str]) -> None:
    """Unless the user has said how they wait."""
    share_cores(before)

    assert before == after
