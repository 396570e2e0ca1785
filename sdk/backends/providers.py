"""ONNX Runtime's execution providers: what an engine's nodes run on.

The CPU is the default and always there. CUDA and TensorRT need the package ``onnxruntime-gpu`` and NVIDIA's
libraries, and are taken only where they are asked for: whether they are faster depends on the model, and
*nothing here was executed on a GPU*. ONNX Runtime's TensorRT builds its engines again at each load; the
backends ``tensorrt`` and ``tensorrt-rtx`` load built ones.

ONNX Runtime falls back to the CPU without an error, at load and after a failed run. Here it doesn't: who
asked for a GPU gets it, or is told.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

from sdk.choices import PROVIDERS as PROVIDERS
from sdk.choices import Precision
from sdk.choices import Provider as Provider
from sdk.errors import BackendError

_CPU = "CPUExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_CHAINS = {  # in order: what a provider can't run goes to the next
    "cpu": [_CPU],
    "cuda": ["CUDAExecutionProvider", _CPU],
    "tensorrt": [_TENSORRT, "CUDAExecutionProvider", _CPU],
}


class ProviderError(BackendError):
    """The provider that was asked for can't be had."""


def chain(
    onnxruntime: Any, provider: Provider, precision: Precision
) -> list[str | tuple[str, dict[str, bool]]]:
    """What to open a session with, for ``provider``: names, and TensorRT's with its options.

    Loads CUDA's libraries if it needs them.

    Raises:
        ProviderError: this ONNX Runtime was built without it.
    """
    names = _CHAINS[provider]
    available = onnxruntime.get_available_providers()
    if names[0] not in available:
        raise ProviderError(
            f"provider {provider}: expected {names[0]} in this ONNX Runtime, got {', '.join(available)}",
            hint="pip uninstall onnxruntime; pip install onnxruntime-gpu; or use --provider cpu",
        )
    if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        with redirect_stdout(sys.stderr):  # it prints, and standard output may carry JSON
            onnxruntime.preload_dlls()  # those that pip installed lie where no linker looks
    return [(name, _tensorrt_options(precision)) if name == _TENSORRT else name for name in names]


def _tensorrt_options(precision: Precision) -> dict[str, bool]:
    """What this provider may compute in: unlike the backend, it doesn't take that from the graph alone.

    Without ``trt_int8_enable`` it refuses Q/DQ pairs.
    """
    return {"trt_fp16_enable": precision == "fp16", "trt_int8_enable": precision == "int8"}


def require_kept(session: Any, provider: Provider) -> None:
    """Check that a session really got ``provider``.

    Raises:
        ProviderError: ONNX Runtime dropped it, as it does where a library is missing.
    """
    wanted, kept = _CHAINS[provider][0], session.get_providers()
    if wanted not in kept:
        raise ProviderError(
            f"provider {provider}: ONNX Runtime dropped {wanted} and kept {', '.join(kept)}: it can't load "
            "the libraries of CUDA, cuDNN or TensorRT, or finds no GPU",
            hint="install those that this version of onnxruntime-gpu was built for, or use --provider cpu",
        )
