"""What is read from the files of kernel and drivers, on machines made of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdk.host.hardware import (
    closed_gpu_nodes,
    cuda_toolkit,
    gpu_model,
    gpu_nodes,
    jetson_model,
    kernel_driver,
    l4t_release,
    power_mode,
    processor,
)

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


@pytest.mark.parametrize(
    "node", ["dev/nvidia0", "dev/nvidia1", "dev/nvidia12", "dev/nvhost-ctrl-gpu", "dev/nvgpu", "dev/dxg"]
)
def test_device_files(tmp_path: Path, node: str) -> None:
    assert gpu_nodes(write(tmp_path, node, "")) == [f"/{node}"]


@pytest.mark.parametrize(("content", "version"), [(OPEN_MODULE, "570.86.15"), (PROPRIETARY, "535.183.01")])
def test_kernel_driver(tmp_path: Path, content: str, version: str) -> None:
    assert kernel_driver(write(tmp_path, "proc/driver/nvidia/version", content)) == version


def test_kernel_driver_where_only_sys_names_it(tmp_path: Path) -> None:
    assert kernel_driver(write(tmp_path, "sys/module/nvidia/version", "540.4.0\n")) == "540.4.0"


@pytest.mark.parametrize("place", ["proc/device-tree/model", "etc/jetson-model"])
def test_jetson_model(tmp_path: Path, place: str) -> None:
    assert jetson_model(tmp_path) is None
    assert jetson_model(write(tmp_path, place, "NVIDIA Jetson Orin Nano\0")) == "NVIDIA Jetson Orin Nano"


def test_device_files_that_this_user_may_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that may be opened is enough; a folder of them is what lies in it."""
    assert closed_gpu_nodes(tmp_path) == []
    write(tmp_path, "dev/nvhost-ctrl-gpu", "")
    write(tmp_path, "dev/nvgpu/igpu0/ctrl", "")
    assert closed_gpu_nodes(tmp_path) == []
    opened = {"ctrl"}
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name in opened)
    assert closed_gpu_nodes(tmp_path) == []
    opened.clear()
    assert closed_gpu_nodes(tmp_path) == ["/dev/nvhost-ctrl-gpu", "/dev/nvgpu/igpu0/ctrl"]


def test_power_mode(tmp_path: Path) -> None:
    assert power_mode(tmp_path) is None
    write(tmp_path, "var/lib/nvpmodel/status", "pmode:0002 fmode:quiet")
    assert power_mode(tmp_path) == ("(2)", [])
    modes = ((0, "MAXN"), (1, "15W"), (2, "30W"))
    lines = [f"< POWER_MODEL ID={number} NAME={name} >\nCPU_ONLINE CORE_0 1\n" for number, name in modes]
    write(tmp_path, "etc/nvpmodel.conf", "".join(lines) + "< PM_CONFIG DEFAULT=2 >\n")
    assert power_mode(tmp_path) == ("30W (2)", ["MAXN (0)", "15W (1)"])


def test_gpu_model(tmp_path: Path) -> None:
    assert gpu_model(tmp_path) is None
    assert (
        gpu_model(write(tmp_path, "etc/jetson-model", "NVIDIA Jetson Orin Nano")) == "NVIDIA Jetson Orin Nano"
    )
    for bus, model in (("0000:65:00.0", "NVIDIA L4"), ("0000:01:00.0", "NVIDIA GeForce RTX 4090")):
        content = f"Model: \t\t {model}\nIRQ:   \t\t 106\n"
        write(tmp_path, f"proc/driver/nvidia/gpus/{bus}/information", content)
    assert gpu_model(tmp_path) == "NVIDIA GeForce RTX 4090, NVIDIA L4"


def test_another_board_is_no_jetson(tmp_path: Path) -> None:
    assert jetson_model(write(tmp_path, "proc/device-tree/model", "Raspberry Pi 5\0")) is None


def test_the_processor_is_told_by_its_features_not_by_its_clock(tmp_path: Path) -> None:
    def told(flags: str, mhz: str) -> tuple[str, str]:
        block = f"model name\t: AMD EPYC\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n\n"
        return processor(write(tmp_path, "proc/cpuinfo", 2 * block))

    name, digest = told("avx2 avx512_vnni", "2596.132")
    assert name == "AMD EPYC"
    assert told("avx2 avx512_vnni", "3100.000") == (name, digest)
    assert told("avx2", "2596.132")[1] != digest


def test_an_arm_processor_is_told_by_its_parts(tmp_path: Path) -> None:
    def told(part: str) -> str:
        block = f"CPU implementer\t: 0x41\nCPU part\t: {part}\nFeatures\t: fp asimd\n\n"
        return processor(write(tmp_path, "proc/cpuinfo", block))[1]

    assert told("0xd42") != told("0xd0b")


def test_a_processor_that_says_nothing_has_a_name_still(tmp_path: Path) -> None:
    name, digest = processor(tmp_path)
    assert name
    assert len(digest) == 64


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
