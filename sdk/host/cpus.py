"""How many CPUs this process may really use: its affinity mask and the quota of its container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs this process may use, at least 1: the affinity mask, cut to the cgroup's quota.

    ``EDGE_PURIFY_CPUS`` in the environment names fewer, where several processes share the machine.
    ``root`` is where ``proc`` and ``sys`` are found.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("EDGE_PURIFY_CPUS", "")
    if wanted.isdecimal():
        allowed = max(1, min(allowed, int(wanted)))
    quota = cgroup_quota(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """CPUs that the process's control groups grant, the tightest of them; None where there is no limit.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us`` over ``cpu.cfs_period_us``).
    """
    quotas = [quota for folder in _cgroup_folders(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """The process's CPU control groups and all their ancestors up to each mount point.

    Inside a container the path in ``/proc/self/cgroup`` is often the host's, and only the mount point exists.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / "sys/fs/cgroup/cpu", root / "sys/fs/cgroup" / controllers]
        else:
            continue
        relative = Path(path.lstrip("/"))
        for mount in mounts:
            yield from (mount / part for part in (relative, *relative.parents))


def _quota(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us").strip(),
        _read(folder / "cpu.cfs_period_us").strip(),
    ]
    try:
        quota, period = (int(field) for field in fields)
    except ValueError:  # "max" or an absent file: no limit here
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
