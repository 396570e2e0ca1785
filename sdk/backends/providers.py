"""ONNX Runtime's execution providers: what an engine's nodes run on.

The CPU is the default and always there. CUDA and TensorRT need the package ``onnxruntime-gpu`` and NVIDIA's
libraries, and are taken only where they are asked for: whether they are faster depends on the model, and
*nothing here was executed on a GPU*. ONNX Runtime's TensorRT builds its engines when a session is opened, and
keeps them and its kernels' timings in the user's cache, a folder for each ONNX file: it names an engine after
the graph's inputs, outputs and nodes alone, so two files of one folder could be taken for each other.

ONNX Runtime falls back to the CPU without an error, at load and after a failed run. Here it doesn't: who
asked for a GPU gets it, or is told.
"""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from sdk.choices import PROVIDERS as PROVIDERS
from sdk.choices import Precision
from sdk.choices import Provider as Provider
from sdk.errors import BackendError
from sdk.host.cache import cache_root, make_private

FOLDER = "onnxruntime"  # inside the cache

ProviderOptions = dict[str, bool | str]

_log = logging.getLogger("sdk")
_CPU = "CPUExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_CHAINS = {  # in order: what a provider can't run goes to the next
    "cpu": [_CPU],
    "cuda": ["CUDAExecutionProvider", _CPU],
    "tensorrt": [_TENSORRT, "CUDAExecutionProvider", _CPU],
}


class ProviderError(BackendError):
    """The provider that was asked for can't be had."""


def chain(onnxruntime: Any, provider: Provider) -> list[str]:
    """The providers to open a session with, for ``provider``, by name.

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
    return names


def engine_cache(provider: Provider, version: str) -> Path | None:
    """The folder where ``provider`` keeps the engines that it builds, this user's alone: engines are code.

    None where it builds none or, said so, where the cache can't be used.

    Args:
        version: of ONNX Runtime, whose engines no other version loads.
    """
    if provider != "tensorrt":
        return None
    try:
        folder = cache_root() / FOLDER / version
        make_private(folder)
    except (BackendError, OSError) as error:
        _log.warning("provider tensorrt: engines aren't kept, and the next start builds again: %s", error)
        return None
    return folder


def with_options(
    names: list[str], precision: Precision, cache: Path | None, onnx_sha256: str
) -> list[str | tuple[str, ProviderOptions]]:
    """``names``, TensorRT's with its options for one engine.

    Unlike the backend, it doesn't take from the graph alone what it may compute in: without
    ``trt_int8_enable`` it refuses Q/DQ pairs.

    Args:
        cache: as ``engine_cache`` says.
        onnx_sha256: of the engine's ONNX file.
    """
    options: ProviderOptions = {
        "trt_fp16_enable": precision == "fp16",
        "trt_int8_enable": precision == "int8",
    }
    if cache is not None:
        folder = str(cache / onnx_sha256)  # which it creates
        options |= {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": folder,
        }
    return [(name, options) if name == _TENSORRT else name for name in names]


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
