"""Where engines can be built for: a device and its software line, and whether this host is one.

TensorRT ties an engine to its exact version and GPU, so a target of the ``tensorrt`` backend is built on the
device itself, or on one of its kind. TensorRT-RTX builds without a GPU, for every RTX GPU at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.choices import BUNDLE_PRECISIONS, ENGINE_NAMES, EngineBackend, Precision
from sdk.errors import BackendError, UsageError
from sdk.host.hardware import jetson_model, l4t_release

RTX_CAPABILITIES = ("8.0+",)  # TensorRT-RTX's own choice where it isn't told: Ampere and later


@dataclass(frozen=True)
class Target:
    """What engines are built for.

    Attributes:
        host: the kind of machine that can build it, for messages.
        lines: the TensorRT versions that it takes, as prefixes: "10.3", or "10" for any 10.x.
        compute_capability: of its GPU, like "8.7"; None takes any.
        model: a regular expression for the GPU's name, or for the module's on a Jetson; "" takes any.
        l4t: major versions of Jetson Linux; empty where the device isn't a Jetson.
        workspace_mib: scratch memory that a layer may take, in MiB: what the device can spare.
    """

    name: str
    host: str
    lines: tuple[str, ...]
    compute_capability: str | None = None
    model: str = ""
    l4t: tuple[int, ...] = ()
    workspace_mib: int = 1024
    precisions: tuple[Precision, ...] = BUNDLE_PRECISIONS
    backend: EngineBackend = "tensorrt"


JETPACK_6 = (36,)
JETPACK_7 = (38, 39)

TARGETS = {
    target.name: target
    for target in (
        Target(
            "jetson-agx-orin/jp6", "a Jetson AGX Orin with JetPack 6", ("10.3",), "8.7", "AGX Orin", JETPACK_6
        ),
        Target(
            "jetson-orin-nano/jp6",
            "a Jetson Orin Nano with JetPack 6",
            ("10.3",),
            "8.7",
            "Orin Nano",
            JETPACK_6,
            256,
        ),
        Target(
            "jetson-agx-orin/jp7", "a Jetson AGX Orin with JetPack 7", ("11",), "8.7", "AGX Orin", JETPACK_7
        ),
        Target(
            "jetson-thor/jp7", "a Jetson Thor with JetPack 7", ("10", "11"), "11.0", "Thor", JETPACK_7, 2048
        ),
        Target("t4", "a host with a T4", ("10", "11"), "7.5", r"\bT4\b"),
        Target("a100", "a host with an A100", ("10", "11"), "8.0", r"\bA100\b", workspace_mib=4096),
        Target("a10", "a host with an A10", ("10", "11"), "8.6", r"\bA10G?\b", workspace_mib=2048),
        Target("l4", "a host with an L4", ("10", "11"), "8.9", r"\bL4\b", workspace_mib=2048),
        Target("h100", "a host with an H100", ("10", "11"), "9.0", r"\bH100\b", workspace_mib=4096),
        Target("b200", "a host with a B200", ("10", "11"), "10.0", r"\bB200\b", workspace_mib=4096),
        Target("rtx", "any host, GPU or not", ("1",), backend="tensorrt-rtx"),
        Target("local", "any host with an NVIDIA GPU", ("10", "11"), workspace_mib=512),
    )
}


@dataclass(frozen=True)
class BuildHost:
    """What builds on this machine: the module, its full version, and the GPU if engines are tied to it.

    ``board`` is the Jetson that the GPU is on; ``multiprocessors`` is None where any number will do.
    """

    module: str
    version: str
    capabilities: tuple[str, ...]
    gpu: str | None = None
    driver: str | None = None
    board: str | None = None
    multiprocessors: int | None = None


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return TARGETS[name]
    except KeyError:
        raise UsageError(f"target: expected one of {', '.join(TARGETS)}, got {name!r}") from None


def show_only(device: int) -> None:
    """Let CUDA see one GPU alone, in this process and those that it starts; call it before CUDA starts.

    Args:
        device: its number, among those that ``CUDA_VISIBLE_DEVICES`` leaves.

    Raises:
        UsageError: that leaves fewer.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = None if visible is None else [each.strip() for each in visible.split(",") if each.strip()]
    if numbers is not None and device >= len(numbers):
        raise UsageError(
            f"device: expected less than {len(numbers)}, as many as CUDA_VISIBLE_DEVICES={visible} leaves, "
            f"got {device}"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = str(device) if numbers is None else numbers[device]


def build_host(
    target: Target,
    *,
    load: Callable[[EngineBackend], Any] | None = None,
    open_driver: Callable[[], Any] | None = None,
    root: Path = Path("/"),
) -> BuildHost:
    """Find out that this machine can build for ``target``.

    Args:
        load: imports a backend's TensorRT module; None takes ``sdk.backends.tensorrt_engine``'s.
        open_driver: opens the GPU, as ``sdk.backends.cuda.open_driver`` does; None takes that one.
        root: of the file system, where a Jetson says what it is.

    Raises:
        BackendError: it can't; the message says why, and which host can.
    """
    from sdk.backends.tensorrt_engine import MODULES, import_library

    module = MODULES[target.backend]
    try:
        version = str((load or import_library)(target.backend).__version__)
    except BackendError as error:
        raise _refusal(target, str(error)) from None
    if not any(version == line or version.startswith(line + ".") for line in target.lines):
        lines = " or ".join(f"{line}.x" for line in target.lines)
        raise _refusal(target, f"it has {ENGINE_NAMES[target.backend]} {version}, expected {lines}")
    if target.backend == "tensorrt-rtx":
        return BuildHost(module, version, RTX_CAPABILITIES)
    _check_l4t(target, root)
    gpu = _find_gpu(target, open_driver)
    if target.compute_capability not in (None, gpu.compute_capability):
        raise _refusal(
            target,
            f"its GPU {gpu.name} has compute capability {gpu.compute_capability}, "
            f"expected {target.compute_capability}",
        )
    board = jetson_model(root)
    model = board or gpu.name
    if not re.search(target.model, model):
        raise _refusal(target, f"it is a {model}")
    return BuildHost(
        module,
        version,
        (gpu.compute_capability,),
        gpu=gpu.name,
        driver=f"CUDA {gpu.cuda_version}",
        board=board,
        multiprocessors=gpu.multiprocessors or None,
    )


def _find_gpu(target: Target, open_driver: Callable[[], Any] | None) -> Any:
    from sdk.backends import cuda

    try:
        with closing((open_driver or cuda.open_driver)()) as driver:
            return driver.gpu
    except BackendError as error:
        raise _refusal(target, str(error)) from None


def _check_l4t(target: Target, root: Path) -> None:
    if not target.l4t:
        return
    expected = " or ".join(f"R{major}" for major in target.l4t)
    release = l4t_release(root)
    if release is None:
        raise _refusal(target, f"it isn't a Jetson (no /etc/nv_tegra_release; expected {expected})")
    if int(release.split(".")[0]) not in target.l4t:
        raise _refusal(target, f"its Jetson Linux is R{release}, expected {expected}")


def _refusal(target: Target, why: str) -> BackendError:
    lines = " or ".join(f"{line}.x" for line in target.lines)
    return BackendError(
        f"target {target.name}: this host can't build it: {why}; "
        f"run the same command on {target.host}, with {ENGINE_NAMES[target.backend]} {lines}"
    )
