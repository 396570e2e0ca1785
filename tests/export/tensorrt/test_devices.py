"""Targets, and the machines that can build for them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from export import cli
from export.tensorrt.devices import TARGETS, build_host, find_target, show_only
from sdk.backends.cuda import Gpu
from sdk.errors import BackendError, UsageError

GIB = 1 << 30

MACHINES = {  # TensorRT, GPU, compute capability, the module in the device tree, Jetson Linux
    "jetson-agx-orin/jp6": ("10.3.0.30", "Orin", "8.7", "NVIDIA Jetson AGX Orin Developer Kit", "36.4.3"),
    "jetson-orin-nano/jp6": ("10.3.0.30", "Orin", "8.7", "NVIDIA Jetson Orin Nano Developer Kit", "36.4.3"),
    "jetson-agx-orin/jp7": ("11.4.0.1", "Orin", "8.7", "NVIDIA Jetson AGX Orin Developer Kit", "39.1"),
    "jetson-thor/jp7": ("10.13.3.9", "NVIDIA Thor", "11.0", "NVIDIA Jetson AGX Thor Developer Kit", "38.2"),
    "t4": ("10.9.0.34", "Tesla T4", "7.5", None, None),
    "a100": ("10.9.0.34", "NVIDIA A100-SXM4-80GB", "8.0", None, None),
    "a10": ("10.9.0.34", "NVIDIA A10G", "8.6", None, None),
    "l4": ("10.9.0.34", "NVIDIA L4", "8.9", None, None),
    "h100": ("11.2.0.1", "NVIDIA H100 80GB HBM3", "9.0", None, None),
    "b200": ("11.2.0.1", "NVIDIA B200", "10.0", None, None),
}


class Machine:
    """A host with one TensorRT and one GPU; ``opened`` counts drivers that were opened and not closed."""

    def __init__(self, name: str, root: Path, **changes: Any) -> None:
        version, gpu, capability, model, release = MACHINES[name]
        self.version = changes.get("version", version)
        self.gpu = Gpu(changes.get("gpu", gpu), changes.get("capability", capability), 8 * GIB, "12.6")
        self.root, self.opened = root, 0
        model, release = changes.get("model", model), changes.get("release", release)
        if model is not None:
            (root / "proc" / "device-tree").mkdir(parents=True)
            (root / "proc" / "device-tree" / "model").write_text(model + "\0")
        if release is not None:
            major, rest = release.split(".", 1)
            (root / "etc").mkdir()
            (root / "etc" / "nv_tegra_release").write_text(
                f"# R{major} (release), REVISION: {rest}, GCID: 1\n"
            )

    def load(self, backend: str) -> ModuleType:
        found = ModuleType(backend)
        found.__version__ = self.version  # type: ignore[attr-defined]
        return found

    def open_driver(self) -> Any:
        self.opened += 1
        return SimpleNamespace(gpu=self.gpu, close=self.close)

    def close(self) -> None:
        self.opened -= 1

    def build_host(self, target: str) -> Any:
        return build_host(find_target(target), load=self.load, open_driver=self.open_driver, root=self.root)


def test_in_a_container_a_jetson_is_known_by_the_file_that_was_mounted(tmp_path: Path) -> None:
    machine = Machine("jetson-agx-orin/jp6", tmp_path)
    (tmp_path / "proc" / "device-tree" / "model").rename(tmp_path / "etc" / "jetson-model")
    assert machine.build_host("jetson-agx-orin/jp6").gpu == "Orin"
    with pytest.raises(BackendError, match="it is a NVIDIA Jetson AGX Orin Developer Kit"):
        machine.build_host("jetson-orin-nano/jp6")


def no_gpu() -> Any:
    raise BackendError("CUDA: cuInit failed: no CUDA-capable device is detected")


@pytest.mark.parametrize("target", MACHINES)
def test_each_target_is_built_on_its_own_machine_and_on_no_other(target: str, tmp_path: Path) -> None:
    for name in MACHINES:
        (root := tmp_path / name).mkdir(parents=True)
        machine = Machine(name, root)
        if name == target:
            host = machine.build_host(target)
            assert (host.module, host.version, host.gpu) == ("tensorrt", machine.version, machine.gpu.name)
            assert host.capabilities == (machine.gpu.compute_capability,)
            assert host.driver == "CUDA 12.6"
        else:
            with pytest.raises(BackendError, match=rf"^target {target}: this host can't build it: "):
                machine.build_host(target)
        assert machine.opened == 0


def test_every_target_that_needs_its_own_machine_is_tried_above() -> None:
    assert set(TARGETS) == {*MACHINES, "rtx", "local"}


@pytest.mark.parametrize("name", MACHINES)
def test_local_is_whatever_gpu_is_here(name: str, tmp_path: Path) -> None:
    machine = Machine(name, tmp_path)
    assert machine.build_host("local").gpu == machine.gpu.name


def test_rtx_engines_need_no_gpu_and_are_for_every_rtx_gpu(tmp_path: Path) -> None:
    machine = Machine("t4", tmp_path, version="1.7.1.116")
    host = build_host(find_target("rtx"), load=machine.load, open_driver=no_gpu)
    assert (host.module, host.version) == ("tensorrt_rtx", "1.7.1.116")
    assert (host.capabilities, host.gpu, host.driver) == (("8.0+",), None, None)


@pytest.mark.parametrize(
    ("target", "changes", "why"),
    [
        ("jetson-agx-orin/jp6", {"version": "10.7.0"}, "it has TensorRT 10.7.0, expected 10.3.x"),
        ("jetson-agx-orin/jp6", {"version": "10.30.0"}, "it has TensorRT 10.30.0, expected 10.3.x"),
        ("jetson-agx-orin/jp6", {"release": "35.4.1"}, "its Jetson Linux is R35.4.1, expected R36"),
        (
            "jetson-agx-orin/jp6",
            {"release": None},
            "it isn't a Jetson (no /etc/nv_tegra_release; expected R36)",
        ),
        ("jetson-agx-orin/jp6", {"model": "NVIDIA Jetson Orin NX"}, "it is a NVIDIA Jetson Orin NX"),
        ("t4", {"version": "9.3.0"}, "it has TensorRT 9.3.0, expected 10.x or 11.x"),
        ("t4", {"capability": "8.6"}, "its GPU Tesla T4 has compute capability 8.6, expected 7.5"),
        ("a10", {"gpu": "NVIDIA A100"}, "it is a NVIDIA A100"),
        ("l4", {"gpu": "NVIDIA L40S"}, "it is a NVIDIA L40S"),
    ],
)
def test_a_refusal_says_why_and_which_host_can(
    target: str, changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    machine = Machine(target, tmp_path, **changes)
    with pytest.raises(BackendError, match=re.escape(why)) as caught:
        machine.build_host(target)
    assert f"run the same command on {TARGETS[target].host}, with TensorRT " in str(caught.value)
    assert (machine.opened, "\n" in str(caught.value)) == (0, False)


@pytest.mark.parametrize(
    ("target", "module", "extra"), [("rtx", "tensorrt_rtx", "[rtx]"), ("l4", "tensorrt", "[tensorrt]")]
)
def test_without_the_module_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, target: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf"^target {target}: .*: {module} can't be imported \(") as caught:
        build_host(find_target(target), open_driver=no_gpu)
    assert extra in str(caught.value)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import ctypes; ctypes.CDLL('libnvinfer.so.absent')", r"libnvinfer\.so\.absent: cannot open shared"),
        ("", "it is some other module of that name"),
    ],
)
def test_a_module_that_is_broken_or_another_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, problem: str
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    try:
        with pytest.raises(BackendError, match=rf"tensorrt can't be imported \({problem}") as caught:
            build_host(find_target("l4"), open_driver=no_gpu)
    finally:
        sys.modules.pop("tensorrt", None)
    assert "\n" not in str(caught.value)


def test_the_help_lists_every_target() -> None:
    text = " ".join(CliRunner().invoke(cli.main, ["engines", "--help"]).stdout.split())
    assert f"One of {', '.join(TARGETS)}." in text


def test_without_a_gpu_cudas_own_reason_is_shown(tmp_path: Path) -> None:
    machine = Machine("l4", tmp_path)
    with pytest.raises(BackendError, match="can't build it: CUDA: cuInit failed: no CUDA-capable device"):
        build_host(find_target("l4"), load=machine.load, open_driver=no_gpu, root=tmp_path)


def test_an_unknown_target_lists_the_known() -> None:
    with pytest.raises(
        UsageError, match=r"^target: expected one of jetson-agx-orin/jp6, .*, local, got 'tx2'$"
    ):
        find_target("tx2")


@pytest.mark.parametrize(
    ("visible", "device", "shown"), [(None, 2, "2"), ("3,1", 1, "1"), ("GPU-8932f937", 0, "GPU-8932f937")]
)
def test_a_gpu_is_chosen_among_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: int, shown: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    show_only(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == shown


@pytest.mark.parametrize("visible", ["", "0,1"])
def test_a_gpu_that_is_hidden_is_refused(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UsageError, match=r"device: expected less than \d, as many as CUDA_VISIBLE_DEVICES="):
        show_only(2)
