"""How many workers a machine, or the share of it that we were given, can keep busy."""

import os
from pathlib import Path
from typing import Final

WORKERS_COUNT_MAX: Final = 4
"""By default no more: a gateway's work is waiting, and each worker costs memory and a ring."""

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
CGROUP_SELF: Final = Path("/proc/self/cgroup")


def default_workers_count(
    root: Path = CGROUP_ROOT, membership: Path = CGROUP_SELF, cpus_count: int | None = None
) -> int:
    """Return the CPUs that affinity and the cgroup's quota allow, at least 1 and at most 4."""
    allowed = len(os.sched_getaffinity(0)) if cpus_count is None else cpus_count
    quota = quota_cpus(root, membership)
    if quota is not None:
        # A quota of one and a half CPUs keeps two workers busy, each for three quarters.
        allowed = min(allowed, -int(-quota // 1))
    return max(1, min(WORKERS_COUNT_MAX, allowed))


def quota_cpus(root: Path, membership: Path) -> float | None:
    """Return the tightest CPU quota of our cgroup and those above it; None without one."""
    quotas = [
        quota
        for group in _groups(root, membership)
        if (quota := _quota_v2(group)) is not None or (quota := _quota_v1(group)) is not None
    ]
    return min(quotas, default=None)


def _groups(root: Path, membership: Path) -> list[Path]:
    """Return our cgroup and all above it, up to the root; also those of version 1's `cpu`."""
    groups: list[Path] = []
    for line in _read(membership).splitlines():
        _, controllers, inner = (*line.split(":", 2), "", "")[:3]
        top = root if not controllers else root / controllers
        if controllers and "cpu" not in controllers.split(","):
            continue
        path = top / inner.lstrip("/")
        groups += [path, *(p for p in path.parents if p == top or top in p.parents)]
    return groups or [root]


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    return _ratio(quota, period)


def _quota_v1(group: Path) -> float | None:
    quota = _read(group / "cpu.cfs_quota_us").strip()
    return _ratio(quota, _read(group / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    """Divide, where both are positive figures; `max` and -1 mean no quota."""
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0 or int(quota) == 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
