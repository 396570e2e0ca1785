"""What runs a bundle's engines: one module per inference runtime, imported only when it is chosen."""

from __future__ import annotations

from typing import cast, get_args

from sdk.backends.base import Backend
from sdk.bundle import Bundle, Precision
from sdk.errors import BackendError, UsageError

BACKENDS = ("auto", "onnxruntime", "tensorrt", "tensorrt-rtx")
PRECISIONS = ("auto", *get_args(Precision))

_TENSORRT_EXTRAS = {"tensorrt": "[tensorrt] or, on a Jetson, [jetson]", "tensorrt-rtx": "[rtx]"}


def open_backend(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Backend:
    """Load every engine of ``bundle``.

    Args:
        backend: one of ``BACKENDS``; "auto" is ONNX Runtime.
        precision: one of ``PRECISIONS``; "auto" is fp32.

    Raises:
        UsageError: no such backend or precision exists.
        BackendError: it exists and can't be had here, or an engine can't be loaded.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if backend in _TENSORRT_EXTRAS:
        raise BackendError(
            f"backend {backend}: not in this version yet; it will come with the extra "
            f"{_TENSORRT_EXTRAS[backend]}, checked by 'edge-purify doctor'; "
            "until then use --backend onnxruntime"
        )
    chosen = cast(Precision, "fp32" if precision == "auto" else precision)
    _check_has(bundle, chosen)

    from sdk.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, chosen)


def _check_has(bundle: Bundle, precision: Precision) -> None:
    engines = (*bundle.manifest.purifiers, *bundle.manifest.classifiers)
    common = [name for name in get_args(Precision) if all(name in engine.onnx for engine in engines)]
    if precision not in common:
        raise BackendError(
            f"bundle {bundle.folder}: no {precision} engines in it; choose --precision {' or '.join(common)}"
        )
