"""How many CPU cores this process may use, how it shares them, and how much memory it may have. Containers are limited
by quotas that no count of cores and pages shows."""

import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
# Rounds that llama.cpp's OpenMP threads spin before they sleep. By default they spin so long that a thread which the
# kernel has set aside for another program's holds up all others: with one busy neighbour on two cores an answer takes
# more than four times as long. With this it takes twice as long, and a quiet one a tenth longer.
SPIN_COUNT = "1000"


def num_usable_cores(cgroup: Path = CGROUP) -> int:
    """Whole cores, at least one: threads beyond them would wait for each other while the quota is used up."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def usable_memory(cgroup: Path = CGROUP) -> int:
    """Bytes of main memory that this process could have, others aside."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(physical, int((cgroup / name).read_text()))
        except (OSError, ValueError):  # "max"
            continue
    return physical


def share_cores(environ: MutableMapping[str, str]) -> None:
    """Before llama.cpp is imported, whose OpenMP reads it then. What the user has set is left alone."""
    if "OMP_WAIT_POLICY" not in environ and "GOMP_SPINCOUNT" not in environ:
        environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def _quota(cgroup: Path) -> float | None:
    """Cores that the container may keep busy: of cgroups of version 2, then 1; None without a limit."""
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        return None if quota in ("max", "-1") else int(quota) / int(period)
    return None
