"""What runs a bundle's engines: one module per inference runtime, imported only when it is chosen."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import cast, get_args

from sdk.backends.base import Backend
from sdk.bundle import Bundle, Precision
from sdk.engines import EngineBackend
from sdk.errors import BackendError, UsageError
from sdk.machine import gpu_nodes

BACKENDS = ("auto", "onnxruntime", *get_args(EngineBackend))
PRECISIONS = ("auto", *get_args(Precision))

_log = logging.getLogger("sdk")


def open_backend(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Backend:
    """Load every engine of ``bundle``.

    Args:
        backend: one of ``BACKENDS``; "auto" is TensorRT on a machine with an NVIDIA GPU and engines built
            for it, otherwise ONNX Runtime.  If there is a GPU that it can't use, the log says why, once.
        precision: one of ``PRECISIONS``; "auto" is fp32 in ONNX Runtime, and in TensorRT fp16 if that is
            built, or else fp32.

    Raises:
        UsageError: no such backend or precision exists.
        BackendError: it exists and can't be had here, or an engine can't be loaded.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    chosen = None if precision == "auto" else cast(Precision, precision)
    _check_has(bundle, chosen or "fp32")
    if backend in get_args(EngineBackend):
        return _open_tensorrt(bundle, cast(EngineBackend, backend), chosen)
    if backend == "auto" and (on_gpu := _open_on_gpu(bundle, chosen)) is not None:
        return on_gpu

    from sdk.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, chosen or "fp32")


def _open_on_gpu(bundle: Bundle, precision: Precision | None) -> Backend | None:
    """TensorRT, or TensorRT-RTX, whichever is installed and has the engines; None if neither will do."""
    if not gpu_nodes():
        _log.info("backend auto: no NVIDIA GPU here, using onnxruntime")
        return None
    from sdk.backends.tensorrt_engine import MODULES

    installed = [name for name, module in MODULES.items() if find_spec(module) is not None]
    reasons = []
    for name in installed or MODULES:
        opened = _try_tensorrt(bundle, name, precision)
        if not isinstance(opened, BackendError):
            return opened
        reasons.append(opened)
    _log.warning("using onnxruntime, not the GPU: %s", reasons[0])
    return None


def _try_tensorrt(bundle: Bundle, name: EngineBackend, precision: Precision | None) -> Backend | BackendError:
    try:
        return _open_tensorrt(bundle, name, precision)
    except BackendError as error:
        return error


def _open_tensorrt(bundle: Bundle, name: EngineBackend, precision: Precision | None) -> Backend:
    from sdk.backends.tensorrt import TensorRtBackend

    return TensorRtBackend(bundle, name, precision)


def _check_has(bundle: Bundle, precision: Precision) -> None:
    engines = (*bundle.manifest.purifiers, *bundle.manifest.classifiers)
    common = [name for name in get_args(Precision) if all(name in engine.onnx for engine in engines)]
    if precision not in common:
        raise BackendError(
            f"bundle {bundle.folder}: no {precision} engines in it; choose --precision {' or '.join(common)}"
        )
