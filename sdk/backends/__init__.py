"""What runs a bundle's engines: one module per inference runtime, imported only when it is chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from sdk.backends.interface import Backend
from sdk.bundle import Bundle
from sdk.choices import (
    BACKENDS,
    CUDA_BINDINGS,
    ENGINE_BACKENDS,
    PRECISIONS,
    PROVIDERS,
    CudaBinding,
    EngineBackend,
    OnnxBackend,
    Precision,
    Provider,
)
from sdk.errors import BackendError, UsageError
from sdk.host.hardware import gpu_nodes

if TYPE_CHECKING:
    from sdk.backends.auto_precision import Trial

OpenDriver = Callable[[], Any]  #: opens the GPU, as ``sdk.backends.cuda.open_driver`` does

_log = logging.getLogger("sdk")


def open_backend(
    bundle: Bundle,
    backend: str = "auto",
    precision: str = "auto",
    provider: str = "cpu",
    *,
    device: int = 0,
    cuda_binding: str = "auto",
) -> Backend:
    """Load every engine of ``bundle``.

    Args:
        backend: one of ``BACKENDS``; "auto" is TensorRT on a machine with an NVIDIA GPU and engines built
            for it, otherwise ONNX Runtime. If it falls back to that, the log says why, once: as a warning
            if there is a GPU, and as information if there is none. OpenVINO is taken by its name alone.
        precision: one of ``PRECISIONS``; "auto" is, in ONNX Runtime and OpenVINO, what a trial on this
            machine found to be right and fastest, and in TensorRT fp16 if that is built, or else fp32.
        provider: one of ``PROVIDERS``, what runs ONNX Runtime's nodes.
        device: number of the GPU that TensorRT runs on, as CUDA counts them.
        cuda_binding: one of ``CUDA_BINDINGS``, what calls CUDA for TensorRT; "auto" is cuda-python, and
            pycuda where that is absent or doesn't fit the driver.

    Raises:
        UsageError: no such backend, precision or provider exists, or the backend has no such provider.
        BackendError: it exists and can't be had here, or an engine can't be loaded.
        BundleError: a trial was needed, and the bundle's golden outputs can't be read.
    """
    _check_choice("backend", backend, BACKENDS)
    _check_choice("precision", precision, PRECISIONS)
    _check_choice("provider", provider, PROVIDERS)
    _check_choice("cuda_binding", cuda_binding, CUDA_BINDINGS)
    if isinstance(device, bool) or not isinstance(device, int) or device < 0:
        raise UsageError(f"device: expected the number of a GPU, 0 or more, got {device!r}")
    gpu = partial(_open_driver, device, cast(CudaBinding, cuda_binding))
    if provider != "cpu" and backend != "onnxruntime":
        raise UsageError(f"provider {provider}: only backend onnxruntime has it, got backend {backend}")
    chosen = None if precision == "auto" else cast(Precision, precision)
    _check_has(bundle, chosen or "fp32")
    if backend in ENGINE_BACKENDS:
        return _open_tensorrt(bundle, backend, chosen, gpu)
    if backend == "auto" and (on_gpu := _open_on_gpu(bundle, chosen, gpu)) is not None:
        return on_gpu
    runtime: OnnxBackend = "openvino" if backend == "openvino" else "onnxruntime"
    return _open_onnx(bundle, runtime, chosen, cast(Provider, provider))


def _open_driver(device: int, binding: CudaBinding) -> Any:
    from sdk.backends.cuda import open_driver

    return open_driver(device, binding)


def _open_on_gpu(bundle: Bundle, precision: Precision | None, gpu: OpenDriver) -> Backend | None:
    """TensorRT, or TensorRT-RTX, whichever is installed and has the engines; None if neither will do."""
    if not gpu_nodes():
        _log.info("backend auto: no NVIDIA GPU here, so the CPU runs the engines, by onnxruntime")
        return None
    from sdk.backends.tensorrt_engine import MODULES

    installed = [name for name, module in MODULES.items() if find_spec(module) is not None]
    reasons = []
    for name in installed or MODULES:
        opened = _try_tensorrt(bundle, name, precision, gpu)
        if not isinstance(opened, BackendError):
            return opened
        reasons.append(opened)
    _log.warning("using onnxruntime, not the GPU: %s", reasons[0])
    return None


def _try_tensorrt(
    bundle: Bundle, name: EngineBackend, precision: Precision | None, gpu: OpenDriver
) -> Backend | BackendError:
    try:
        return _open_tensorrt(bundle, name, precision, gpu)
    except BackendError as error:
        return error


def _open_tensorrt(
    bundle: Bundle, name: EngineBackend, precision: Precision | None, gpu: OpenDriver
) -> Backend:
    from sdk.backends.tensorrt import TensorRtBackend

    if bundle.manifest.plans and bundle.signed_by is None:
        _log.warning(
            "bundle %s: it comes with built engines, which are code, and no signature was required of it",
            bundle.folder,
        )
    return TensorRtBackend(bundle, name, precision, open_driver=gpu)


def _open_onnx(
    bundle: Bundle, backend: OnnxBackend, precision: Precision | None, provider: Provider
) -> Backend:
    precision = precision or _best_precision(bundle, backend, provider)
    if backend == "openvino":
        from sdk.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(bundle, precision)
    from sdk.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, precision, provider=provider)


def _best_precision(bundle: Bundle, backend: OnnxBackend, provider: Provider) -> Precision:
    if len(bundle.manifest.precisions) == 1:
        return bundle.manifest.precisions[0]
    return trial(bundle, backend, provider).chosen


def trial(bundle: Bundle, backend: OnnxBackend, provider: Provider = "cpu") -> Trial:
    """The precision trial of ``bundle`` on this machine; see ``sdk.backends.auto_precision.trial``."""
    from sdk.backends import auto_precision

    return auto_precision.trial(bundle, backend, provider, open_backend=open_backend)


def _check_choice(what: str, got: str, known: Sequence[str]) -> None:
    if got not in known:
        raise UsageError(f"{what}: expected one of {', '.join(known)}, got {got!r}")


def _check_has(bundle: Bundle, precision: Precision) -> None:
    if precision not in bundle.manifest.precisions:
        raise BackendError(
            f"bundle {bundle.folder}: no {precision} engines in it",
            hint=f"choose --precision {' or '.join(bundle.manifest.precisions)}",
        )
