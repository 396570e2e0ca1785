"""What is read from the files of kernel and drivers, on machines made of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdk.machine import cuda_toolkit, gpu_nodes, kernel_driver, l4t_release

OPEN_MODULE = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs@builder)\n"
    "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
)
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
L4T = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8\n"


def write(root: Path, name: str, content: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return root


def test_a_machine_with_nothing(tmp_path: Path) -> None:
    assert gpu_nodes(tmp_path) == []
    assert kernel_driver(tmp_path) is l4t_release(tmp_path) is cuda_toolkit(tmp_path) is None


@pytest.mark.parametrize("node", ["dev/nvidia0", "dev/nvhost-ctrl-gpu", "dev/nvgpu", "dev/dxg"])
def test_device_files(tmp_path: Path, node: str) -> None:
    assert gpu_nodes(write(tmp_path, node, "")) == [f"/{node}"]


@pytest.mark.parametrize(("content", "version"), [(OPEN_MODULE, "570.86.15"), (PROPRIETARY, "535.183.01")])
def test_kernel_driver(tmp_path: Path, content: str, version: str) -> None:
    assert kernel_driver(write(tmp_path, "proc/driver/nvidia/version", content)) == version


def test_kernel_driver_where_only_sys_names_it(tmp_path: Path) -> None:
    assert kernel_driver(write(tmp_path, "sys/module/nvidia/version", "540.4.0\n")) == "540.4.0"


def test_l4t_release(tmp_path: Path) -> None:
    assert l4t_release(write(tmp_path, "etc/nv_tegra_release", L4T)) == "36.4.3"


@pytest.mark.parametrize(
    ("content", "version"),
    [
        ('{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}', "12.6.68"),
        ("{}", None),
        ("[]", None),
        ("x", None),
    ],
)
def test_cuda_toolkit(tmp_path: Path, content: str, version: str | None) -> None:
    assert cuda_toolkit(write(tmp_path, "usr/local/cuda/version.json", content)) == version
