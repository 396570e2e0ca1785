"""The few CUDA calls that the TensorRT backend makes, through cuda-python or pycuda; none on import.

A ``Driver`` belongs to the thread that opened it.  It retains the device's **primary** context, which other
CUDA libraries of the process share, and gives it back when it is closed.  Addresses, streams and events are
plain integers, as TensorRT takes them.  *Not executed on a GPU*: the calls are tested against strict fakes,
and those of cuda-python against the real bindings as far as these go without a driver.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sdk.errors import BackendError

EXTRAS = "pip install 'edge-purify[tensorrt]', or [jetson] on a Jetson, or [rtx] for an RTX GPU"
Array = npt.NDArray[Any]


class BindingMissing(BackendError):
    """Neither cuda-python nor pycuda can be imported."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that a driver opened; ``cuda_version``, like "13.0", is the newest that its driver serves."""

    name: str
    compute_capability: str
    memory_bytes: int
    cuda_version: str


class Driver(Protocol):
    """One GPU's streams, events, memory and copies, all to be given back before ``close``.

    Every failing call raises a ``BackendError`` that names it and CUDA's reason.
    """

    binding: str  #: the package underneath and its version
    gpu: Gpu

    def create_stream(self) -> int: ...

    def synchronize(self, stream: int) -> None:
        """Wait until all that was put on ``stream`` is done."""
        ...

    def destroy_stream(self, stream: int) -> None: ...

    def create_event(self) -> int: ...

    def record(self, event: int, stream: int) -> None: ...

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two recorded events that have both come to pass."""
        ...

    def destroy_event(self, event: int) -> None: ...

    def allocate(self, size_bytes: int) -> int:
        """Device memory, aligned to 256 bytes; its address."""
        ...

    def free(self, address: int) -> None: ...

    def allocate_host(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A page-locked array, which the GPU copies from and to without the CPU's help."""
        ...

    def free_host(self, array: Array) -> None: ...

    def copy_to_device(self, address: int, array: Array, stream: int) -> None:
        """Put a copy of a whole page-locked array on ``stream``; leave it unchanged until that is done."""
        ...

    def copy_to_host(self, array: Array, address: int, stream: int) -> None:
        """Put a copy that fills a page-locked array on ``stream``; read it when that is done."""
        ...

    def close(self) -> None:
        """Give the primary context back."""
        ...


def open_driver() -> Driver:
    """The first GPU, through cuda-python or, where that is absent, pycuda.

    Raises:
        BindingMissing: neither is installed.
        BackendError: there is no NVIDIA driver or GPU.
    """
    reasons: list[str] = []
    if cuda := _imported("cuda.bindings.driver", reasons):
        return CudaPython(cuda)
    if cuda := _imported("pycuda.driver", reasons):
        return PyCuda(cuda)
    said = "; ".join(reasons)
    raise BindingMissing(f"CUDA: neither cuda-python nor pycuda can be imported ({said})", hint=EXTRAS)


class CudaPython:
    """The driver API through ``cuda.bindings.driver``, whose calls return a status and their results."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self.binding = f"cuda-python {import_module('cuda.bindings').__version__}"
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", 0)
        self.gpu = self._describe()
        context = self._call("cuDevicePrimaryCtxRetain", self._device)
        try:
            self._call("cuCtxSetCurrent", context)
        except BackendError:
            with suppress(BackendError):  # the first error says why
                self._call("cuDevicePrimaryCtxRelease", self._device)
            raise

    def create_stream(self) -> int:
        return int(self._call("cuStreamCreate", self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING.value))

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def create_event(self) -> int:
        return int(self._call("cuEventCreate", self._cuda.CUevent_flags.CU_EVENT_DEFAULT.value))

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(self._call("cuEventElapsedTime", start, end))

    def destroy_event(self, event: int) -> None:
        self._call("cuEventDestroy", event)

    def allocate(self, size_bytes: int) -> int:
        return int(self._call("cuMemAlloc", size_bytes))

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def allocate_host(self, shape: tuple[int, ...], dtype: str) -> Array:
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        address = int(self._call("cuMemHostAlloc", size_bytes, 0))
        memory = (ctypes.c_uint8 * size_bytes).from_address(address)
        array: Array = np.ndarray(shape, dtype, memoryview(memory))
        return array

    def free_host(self, array: Array) -> None:
        self._call("cuMemFreeHost", array.ctypes.data)

    def copy_to_device(self, address: int, array: Array, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)

    def copy_to_host(self, array: Array, address: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)

    def close(self) -> None:
        try:
            self._call("cuCtxSetCurrent", 0)
        finally:
            self._call("cuDevicePrimaryCtxRelease", self._device)

    def _describe(self) -> Gpu:
        kinds, ask = self._cuda.CUdevice_attribute, self._call
        major = ask("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, self._device)
        minor = ask("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, self._device)
        name = self._call("cuDeviceGetName", 128, self._device).split(b"\0")[0].decode()
        memory_bytes = int(self._call("cuDeviceTotalMem", self._device))
        return Gpu(name, f"{major}.{minor}", memory_bytes, _version(self._call("cuDriverGetVersion")))

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver API; its one result, or None."""
        try:
            status, *results = getattr(self._cuda, name)(*arguments)
        except RuntimeError as error:  # the bindings are there and the driver's library isn't
            raise BackendError(
                f"CUDA: {name}: {_one_line(error).rstrip('.')}",
                hint="is there an NVIDIA GPU, and is its driver installed? 'edge-purify doctor' looks",
            ) from None
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            _, text = self._cuda.cuGetErrorString(status)
            reason = text.decode() if text else str(status)
            raise BackendError(f"CUDA: {name} failed: {reason}")
        return results[0] if results else None


class PyCuda:
    """The driver API through ``pycuda.driver``, which raises on failure and frees what is forgotten.

    Never by ``pycuda.autoinit``, which makes a context of its own.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self.binding = f"pycuda {import_module('pycuda').VERSION_TEXT}"
        self._objects: dict[int, Any] = {}  # by the integer that stands for each
        _guarded("init", cuda.init)
        device = _guarded("Device", cuda.Device, 0)
        self.gpu = Gpu(
            _guarded("Device.name", device.name),
            "{}.{}".format(*_guarded("Device.compute_capability", device.compute_capability)),
            int(_guarded("Device.total_memory", device.total_memory)),
            _version(_guarded("get_driver_version", cuda.get_driver_version)),
        )
        self._context = _guarded("Device.retain_primary_context", device.retain_primary_context)
        try:
            _guarded("Context.push", self._context.push)
        except BackendError:
            with suppress(BackendError):
                _guarded("Context.detach", self._context.detach)
            raise

    def create_stream(self) -> int:
        stream = _guarded("Stream", self._cuda.Stream)
        self._objects[stream.handle] = stream
        return int(stream.handle)

    def synchronize(self, stream: int) -> None:
        _guarded("Stream.synchronize", self._objects[stream].synchronize)

    def destroy_stream(self, stream: int) -> None:
        del self._objects[stream]

    def create_event(self) -> int:
        event = _guarded("Event", self._cuda.Event)
        self._objects[id(event)] = event
        return id(event)

    def record(self, event: int, stream: int) -> None:
        _guarded("Event.record", self._objects[event].record, self._objects[stream])

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(_guarded("Event.time_since", self._objects[end].time_since, self._objects[start]))

    def destroy_event(self, event: int) -> None:
        del self._objects[event]

    def allocate(self, size_bytes: int) -> int:
        memory = _guarded("mem_alloc", self._cuda.mem_alloc, size_bytes)
        self._objects[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        _guarded("DeviceAllocation.free", self._objects.pop(address).free)

    def allocate_host(self, shape: tuple[int, ...], dtype: str) -> Array:
        return np.asarray(_guarded("pagelocked_empty", self._cuda.pagelocked_empty, shape, dtype))

    def free_host(self, array: Array) -> None:
        allocation: Any = array.base
        _guarded("HostAllocation.free", allocation.free)

    def copy_to_device(self, address: int, array: Array, stream: int) -> None:
        _guarded("memcpy_htod_async", self._cuda.memcpy_htod_async, address, array, self._objects[stream])

    def copy_to_host(self, array: Array, address: int, stream: int) -> None:
        _guarded("memcpy_dtoh_async", self._cuda.memcpy_dtoh_async, array, address, self._objects[stream])

    def close(self) -> None:
        try:
            _guarded("Context.pop", self._context.pop)
        finally:
            _guarded("Context.detach", self._context.detach)


def _imported(name: str, reasons: list[str]) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        reasons.append(_one_line(error))
        return None


def _guarded(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call into pycuda, whose own errors have no base but ``Exception``.

    A pycuda object is freed with its last reference, so a failure must keep none of them in its traceback.
    """
    try:
        return call(*arguments)
    except Exception as error:
        reason = _one_line(error)
    del call, arguments
    raise BackendError(f"CUDA: {name} failed: {reason}")


def _version(number: int) -> str:
    """12060 as "12.6"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
