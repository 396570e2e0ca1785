"""How many CPUs a container grants, by both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdk.host import cpus
from sdk.host.cpus import available_cpus, cgroup_quota

V2 = {"proc/self/cgroup": "0::/app/web\n"}
V1 = {"proc/self/cgroup": "9:name=systemd:/x\n4:cpu,cpuacct:/docker/abc\n3:memory:/m\n"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        (V2 | {"sys/fs/cgroup/app/web/cpu.max": "150000 100000\n"}, 1.5),
        (V2 | {"sys/fs/cgroup/app/web/cpu.max": "max 100000\n"}, None),
        (
            V2 | {"sys/fs/cgroup/app/web/cpu.max": "max 100000", "sys/fs/cgroup/app/cpu.max": "50000 100000"},
            0.5,
        ),
        (V2 | {"sys/fs/cgroup/app/web/cpu.max": "4 1", "sys/fs/cgroup/cpu.max": "3 1"}, 3.0),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2.0),
        (V1 | {"sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "-1"}, None),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        (V2 | {"sys/fs/cgroup/app/web/cpu.max": "garbage"}, None),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    write(tmp_path, files)
    assert cgroup_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "expected"), [("max 1", 4), ("25 10", 2), ("1 10", 1), ("90 10", 4)])
def test_available_is_the_affinity_cut_to_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota})
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert available_cpus(tmp_path) == expected


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
