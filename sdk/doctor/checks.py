"""Checks of this machine and its Python: one Finding each, with a suggested fix.

Nothing here raises: a library that can't be imported is a finding. The GPU is opened, asked for its name and
released.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

import msgspec

from sdk.backends.plan_store import Host
from sdk.choices import ENGINE_BACKENDS, EngineBackend
from sdk.errors import BackendError, EdgePurifyError
from sdk.host.cpus import available_cpus, cgroup_quota
from sdk.host.hardware import (
    closed_gpu_nodes,
    cuda_toolkit,
    gpu_nodes,
    jetson_model,
    kernel_driver,
    l4t_release,
    power_mode,
)

OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
JOIN_VIDEO = (
    "sudo usermod --append --groups video $USER, then log in again; for a container --group-add video"
)
#: What importing a library raises that is missing, broken or half installed.
PROBLEMS = (ImportError, OSError, AttributeError, RuntimeError)

Status = Literal["ok", "note", "failed"]


class Finding(msgspec.Struct, frozen=True):
    """The outcome of one check.

    Attributes:
        name: of the thing that was checked.
        status: "ok"; "note" for what isn't needed here or could be better; "failed" for what is needed.
        what: what was found.
        hint: how to fix it, for "note" and "failed"; None where nothing can be done.
    """

    name: str
    status: Status
    what: str
    hint: str | None = None


def failure(name: str, error: EdgePurifyError, otherwise: str) -> Finding:
    """An error as a failed finding with the error's own hint, or ``otherwise`` if it has none."""
    return Finding(name, "failed", error.what, error.hint or otherwise)


def machine() -> Iterator[Finding]:
    """Python, the processor, and the kind of machine."""
    yield Finding("python", "ok", f"{platform.python_version()}, {sys.executable}")
    quota = cgroup_quota()
    limit = f"the container's quota is {quota:g}" if quota is not None else "no container's quota"
    yield Finding(
        "cpu", "ok", f"{available_cpus()} of {os.cpu_count()} usable, {limit}, {platform.machine()}"
    )
    release = l4t_release()
    yield Finding("l4t", "ok", f"{release}: a Jetson") if release else Finding("l4t", "note", "not a Jetson")
    if release:
        yield from _jetson()


def _jetson() -> Iterator[Finding]:
    """Its power mode, and whether this Python sees the packages that JetPack brings."""
    if found := power_mode():
        mode, others = found
        is_fastest = mode.startswith("MAXN") or not others
        choice = f"sudo nvpmodel -m N; it also has {', '.join(others)}"
        status: Status = "ok" if is_fastest else "note"
        yield Finding("power mode", status, f"{mode}; latency follows it", None if is_fastest else choice)
    if sys.prefix != sys.base_prefix and sees_no_system_packages():
        yield Finding(
            "environment",
            "failed",
            "it doesn't see the system's packages, with which JetPack's TensorRT and OpenCV come",
            f"python3 -m venv --system-site-packages {shlex.quote(sys.prefix)}",
        )


def sees_no_system_packages() -> bool:
    """Whether this virtual environment is closed to what the system's Python has."""
    try:
        text = (Path(sys.prefix) / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return False
    closed = re.search(r"^include-system-site-packages *= *false", text, re.MULTILINE | re.IGNORECASE)
    return closed is not None


def libraries() -> Iterator[Finding]:
    """The libraries that every run needs."""
    yield _library("numpy", "pip install numpy")
    yield _onnxruntime()
    yield from _opencv()


def openvino() -> Finding:
    """OpenVINO, an optional second runtime for CPUs."""
    try:
        version = import_module("sdk.backends.openvino").VERSION
    except BackendError as error:
        found = failure("openvino", error, "install it again")
        return msgspec.structs.replace(found, status="note")
    return Finding("openvino", "ok", version)


def gpu() -> tuple[list[Finding], tuple[Host, ...]]:
    """The GPU, CUDA and both TensorRTs.

    Returns:
        The findings, and a Host for each TensorRT that can run here, which built engines are looked up by.
    """
    if not gpu_nodes():
        none = Finding("gpu", "note", "no NVIDIA GPU: ONNX Runtime serves on the CPU")
        return [none, *(_tensorrt(backend)[0] for backend in ENGINE_BACKENDS)], ()
    if closed := closed_gpu_nodes():
        what = f"this user may not open {' or '.join(closed)}"
        return [Finding("gpu", "failed", what, JOIN_VIDEO), *_cuda()], ()
    from sdk.backends.cuda import BindingMissing, open_driver

    try:
        driver = open_driver()
        driver.close()
    except BackendError as error:
        found = failure("gpu", error, "install its driver again")
        status: Status = "note" if isinstance(error, BindingMissing) else "failed"
        what = f"{', '.join(gpu_nodes())}, but {found.what}"
        return [msgspec.structs.replace(found, status=status, what=what), *_cuda()], ()
    name, capability = driver.gpu.name, driver.gpu.compute_capability
    memory = f"{driver.gpu.memory_bytes / 2**30:.1f} GiB"
    served = f"CUDA {driver.gpu.cuda_version} by {driver.binding}"
    findings = [
        Finding("gpu", "ok", f"{name}, compute capability {capability}, {memory}, {served}"),
        *_cuda(),
    ]
    hosts = []
    for backend in ENGINE_BACKENDS:
        finding, version = _tensorrt(backend)
        findings.append(finding)
        if version:
            hosts.append(Host(backend, version, name, capability, jetson_model(), driver.gpu.multiprocessors))
    return findings, tuple(hosts)


def _cuda() -> Iterator[Finding]:
    yield Finding("driver", "ok", f"kernel module {kernel_driver() or 'of unknown version'}")
    toolkit = cuda_toolkit()
    yield (
        Finding("cuda", "ok", f"toolkit {toolkit}")
        if toolkit
        else Finding("cuda", "note", "no toolkit: none needed")
    )


def _tensorrt(backend: EngineBackend) -> tuple[Finding, str | None]:
    """Whether it is installed and supported; its version if so."""
    from sdk.backends.tensorrt_engine import EXTRAS, Library, import_library

    try:
        module = import_library(backend)
    except BackendError as error:
        on_jetson = backend == "tensorrt" and l4t_release() is not None
        hint = "sudo apt install python3-libnvinfer" if on_jetson else EXTRAS[backend]
        return Finding(backend, "note", error.what.removeprefix(f"backend {backend}: "), hint), None
    try:
        version = Library(module, backend).version
    except BackendError as error:
        return Finding(backend, "note", error.what.removeprefix(f"backend {backend}: "), error.hint), None
    return Finding(backend, "ok", version), version


def _library(name: str, hint: str) -> Finding:
    try:
        return Finding(name, "ok", str(import_module(name).__version__))
    except PROBLEMS as error:
        return Finding(name, "failed", f"can't be imported: {error}", hint)


def _onnxruntime() -> Finding:
    found = _library("onnxruntime", "pip install onnxruntime")
    if found.status != "ok":
        return found
    runtime: Any = import_module("onnxruntime")
    return Finding(
        found.name, "ok", f"{found.what}, providers {', '.join(runtime.get_available_providers())}"
    )


def _opencv() -> Iterator[Finding]:
    on_jetson = l4t_release() is not None
    hint = "sudo apt install python3-opencv" if on_jetson else "pip install 'edge-purify[opencv]'"
    found = _library("cv2", hint)
    if found.status != "ok":
        is_for_numpy_1 = re.search(r"numpy[.]?core|_ARRAY_API|NumPy 1", found.what) is not None
        yield Finding("opencv", "failed", found.what, "pip install 'numpy<2'" if is_for_numpy_1 else hint)
        return
    cv2: Any = import_module("cv2")
    parts = {name: build_part(cv2.getBuildInformation(), name) for name in ("GStreamer", "FFMPEG", "GUI")}
    yield Finding("opencv", "ok", ", ".join([found.what, *(f"{name} {has}" for name, has in parts.items())]))
    if parts["FFMPEG"] == "NO":
        yield Finding("opencv ffmpeg", "note", "video files and streams can't be read", hint)
    if on_jetson and parts["GStreamer"] == "NO":
        yield Finding(
            "opencv gstreamer",
            "note",
            "csi:// cameras need it, and pip's OpenCV hides the system's, which has it",
            f"pip uninstall {' '.join(installed_wheels() or OPENCV_WHEELS[:1])}; {hint}",
        )
    if len(wheels := installed_wheels()) > 1:
        yield Finding(
            "opencv wheels",
            "failed",
            f"{' and '.join(wheels)} overwrite each other's files",
            f"pip uninstall {' '.join(wheels)}; pip install {wheels[0]}",
        )


def installed_wheels() -> list[str]:
    """The OpenCV wheels that are installed; more than one is an accident, since all are the module cv2."""
    return [name for name in OPENCV_WHEELS if any(True for _ in metadata.distributions(name=name))]


def build_part(information: str, name: str) -> str:
    """What OpenCV's build information says of one part: "YES", "NO", or a name like "QT5" or "NONE"."""
    found = re.search(rf"^\s*{name}:\s+(\S+)", information, re.MULTILINE)
    return found[1] if found else "NO"
