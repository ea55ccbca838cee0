"""How many CPU cores this process may use. Containers are limited by a quota that no count of cores shows."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def num_usable_cores(cgroup: Path = CGROUP) -> int:
    """Whole cores, at least one: threads beyond them would wait for each other while the quota is used up."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Cores that the container may keep busy: of cgroups of version 2, then 1; None without a limit."""
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        return None if quota in ("max", "-1") else int(quota) / int(period)
    return None
