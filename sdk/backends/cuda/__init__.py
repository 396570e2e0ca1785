"""The few CUDA calls that the TensorRT backend makes, through cuda-python or pycuda; none on import.

A ``Driver`` belongs to the thread that opened it. It retains the device's **primary** context, which other
CUDA libraries of the process share, and gives it back when it is closed. Addresses, streams and events are
plain integers, as TensorRT takes them. *Not executed on a GPU*: the calls are tested against strict fakes,
and those of cuda-python against the real bindings as far as these go without a driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sdk.backends.cuda.cuda_python import CudaPython
from sdk.backends.cuda.driver import Array, BindingMissing, BindingUnfit, Driver, Gpu, one_line
from sdk.backends.cuda.py_cuda import PyCuda
from sdk.choices import CudaBinding

__all__ = ["Array", "BindingMissing", "BindingUnfit", "CudaPython", "Driver", "Gpu", "PyCuda", "open_driver"]

EXTRAS = "pip install 'edge-purify[tensorrt]', or [jetson] on a Jetson, or [rtx] for an RTX GPU"


def open_driver(device: int = 0, binding: CudaBinding = "auto") -> Driver:
    """A GPU, through cuda-python or, where that is absent or doesn't fit the driver, pycuda.

    Args:
        device: number of the GPU, as CUDA counts them.
        binding: "cuda-python" or "pycuda" takes that one alone.

    Raises:
        BindingMissing: none is installed.
        BackendError: there is no NVIDIA driver, or no such GPU.
    """
    reasons: list[str] = []
    unfit: BindingUnfit | None = None
    if binding != "pycuda" and (cuda := _imported("cuda.bindings.driver", reasons)):
        try:
            return CudaPython(cuda, device)
        except BindingUnfit as error:
            unfit = error
    if binding != "cuda-python" and (cuda := _imported("pycuda.driver", reasons)):
        return PyCuda(cuda, device)
    if unfit is not None:
        raise unfit
    said = "; ".join(reasons)
    raise BindingMissing(f"CUDA: neither cuda-python nor pycuda can be imported ({said})", hint=EXTRAS)


def _imported(name: str, reasons: list[str]) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        reasons.append(one_line(error))
        return None
