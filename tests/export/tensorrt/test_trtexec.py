"""What --dry-run prints, and the deep-learning accelerator: none of it needs TensorRT or a GPU."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from export.cli import main
from export.tensorrt import build
from export.tensorrt.build import BuildError, Options
from sdk.bundle import Bundle


def printed(*arguments: object) -> list[list[str]]:
    done = CliRunner().invoke(main, ["engines", *map(str, arguments), "--dry-run"])
    assert done.exit_code == 0, done.output
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_a_dry_run_prints_one_command_an_engine_and_builds_none(exported: Path) -> None:
    lines = printed(exported, "--target", "l4", "--workspace", 64)
    bundle = Bundle.open(exported)
    assert [line[0] for line in lines] == ["trtexec"] * len(bundle.manifest.engines)
    first = bundle.manifest.purifiers[0]
    assert lines[0] == [
        "trtexec",
        f"--onnx={bundle.path(first.onnx['fp32'])}",
        "--saveEngine=purifier-00.fp32.plan",
        "--stronglyTyped",
        "--noTF32",
        "--memPoolSize=workspace:64M",
    ]
    assert not (exported / "engines").exists()


def test_shapes_and_the_rtx_tool_are_named(exported: Path) -> None:
    lines = printed(exported, "--target", "rtx", "--profile", "image=1x3x32x32:1x3x32x32:4x3x32x32")
    assert lines[0][0] == "tensorrt_rtx"
    assert lines[0][-3:] == [
        "--minShapes=image:1x3x32x32",
        "--optShapes=image:1x3x32x32",
        "--maxShapes=image:4x3x32x32",
    ]


def test_the_accelerator_is_for_classifiers(exported: Path) -> None:
    lines = printed(exported, "--target", "jetson-agx-orin/jp7", "--dla", 1)
    for line in lines:
        is_classifier = "--saveEngine=classifier" in line[2]
        assert (line[-2:] == ["--useDLACore=1", "--allowGPUFallback"]) == is_classifier
        assert "--stronglyTyped" not in line, "TensorRT 11 knows nothing else"


def test_a_device_without_an_accelerator_says_so(exported: Path) -> None:
    done = CliRunner().invoke(main, ["engines", str(exported), "--target", "l4", "--dla", "0", "--dry-run"])
    assert done.exit_code == 2
    assert "l4 has no deep-learning accelerator; leave --dla out" in done.output


class Config:
    def __init__(self) -> None:
        self.flags: list[Any] = []
        self.default_device_type: Any = None
        self.DLA_core = -1

    def set_flag(self, flag: Any) -> None:
        self.flags.append(flag)

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer.name != "softmax"


class Layer:
    def __init__(self, name: str) -> None:
        self.name = name


class Network:
    num_layers = 2

    def get_layer(self, index: int) -> Layer:
        return Layer(["conv", "softmax"][index])


def test_layers_that_the_accelerator_leaves_to_the_gpu_are_named() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for name in ("default_device_type", "DLA_core", "can_run_on_DLA", "set_flag"):
        assert hasattr(trt.IBuilderConfig, name)
    module = Module(trt, "11.4.1.2")
    config, notices = Config(), list[str]()
    build._prefer_dla(module, Network(), config, 0, notices.append)
    assert (config.default_device_type, config.DLA_core) == (trt.DeviceType.DLA, 0)
    assert config.flags == [trt.BuilderFlag.GPU_FALLBACK]
    assert notices == ["DLA 0 can't run 1 of 2 layers, so the GPU does: softmax"]


def test_an_accelerator_under_a_tensorrt_that_cannot_use_it_is_one_line() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    with pytest.raises(BuildError, match=r"TensorRT serves it from 11\.4\.1 on; leave --dla"):
        build._prefer_dla(Module(trt, "10.3.0"), Network(), Config(), 0, print)


def test_the_accelerator_is_in_the_fingerprint() -> None:
    assert Options(64).fields() == {"recipe": 1, "workspace_mib": 64}
    assert Options(64, dla=1).fields()["dla"] == 1


class Module:
    """TensorRT-RTX's module under another version."""

    def __init__(self, trt: Any, version: str) -> None:
        self.__version__ = version
        self.DeviceType, self.BuilderFlag = trt.DeviceType, trt.BuilderFlag
