"""CUDA through ``cuda.bindings.driver`` (cuda-python), whose calls return a status and their results."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

from sdk.backends.cuda.driver import Array, BindingUnfit, Gpu, one_line, version_text
from sdk.errors import BackendError


class CudaPython:
    """The driver API through ``cuda.bindings.driver``, whose calls return a status and their results."""

    def __init__(self, cuda: Any, device: int = 0) -> None:
        self._cuda = cuda
        self.binding = f"cuda-python {import_module('cuda.bindings').__version__}"
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", device)
        self.gpu = self._describe()
        context = self._call("cuDevicePrimaryCtxRetain", self._device)
        try:
            self._call("cuCtxSetCurrent", context)
        except BackendError:
            with suppress(BackendError):  # the first error says why
                self._call("cuDevicePrimaryCtxRelease", self._device)
            raise
        try:
            self._probe()
        except BackendError:
            with suppress(BackendError):
                self.close()
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

    def capture(self, stream: int, work: Callable[[], None]) -> int | None:
        cuda = self._cuda
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        try:
            self._call("cuStreamBeginCapture", stream, mode)
        except BackendError:
            return None
        try:
            work()
        except BackendError:
            with suppress(BackendError):  # the capture has to end, or the stream could do nothing else
                self._call("cuGraphDestroy", self._call("cuStreamEndCapture", stream))
            return None
        try:
            graph = self._call("cuStreamEndCapture", stream)
            try:
                return int(self._call("cuGraphInstantiate", graph, 0))
            finally:
                with suppress(BackendError):
                    self._call("cuGraphDestroy", graph)
        except BackendError:  # some engine can't be captured: it is put on the stream each time
            return None

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)

    def _probe(self) -> None:
        """Time nothing once: version 13 of the bindings calls a function for it that older drivers lack."""
        event = self.create_event()
        try:
            self.record(event, 0)
            self.synchronize(0)
            self._result("cuEventElapsedTime", self._cuda.cuEventElapsedTime(event, event))
            self.destroy_event(event)
        except RuntimeError as error:
            with suppress(BackendError):
                self.destroy_event(event)
            raise BindingUnfit(
                f"CUDA: {self.binding} doesn't fit this driver, which serves CUDA {self.gpu.cuda_version}: "
                f"{one_line(error)}",
                hint="pip install 'cuda-bindings>=12.8,<13', or update the driver",
            ) from None
        except BackendError:
            with suppress(BackendError):
                self.destroy_event(event)
            raise

    def _describe(self) -> Gpu:
        kinds, ask = self._cuda.CUdevice_attribute, self._call
        major = ask("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, self._device)
        minor = ask("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, self._device)
        name = self._call("cuDeviceGetName", 128, self._device).split(b"\0")[0].decode()
        memory_bytes = int(self._call("cuDeviceTotalMem", self._device))
        count = ask("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, self._device)
        cuda_version = version_text(self._call("cuDriverGetVersion"))
        return Gpu(name, f"{major}.{minor}", memory_bytes, cuda_version, int(count))

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver API; its one result, or None."""
        try:
            answer = getattr(self._cuda, name)(*arguments)
        except RuntimeError as error:  # the bindings are there and the driver's library isn't
            raise BackendError(
                f"CUDA: {name}: {one_line(error).rstrip('.')}",
                hint="is there an NVIDIA GPU, and is its driver installed? 'edge-purify doctor' looks",
            ) from None
        return self._result(name, answer)

    def _result(self, name: str, answer: tuple[Any, ...]) -> Any:
        """A function's one result, or None; raises where its status says that it failed."""
        status, *results = answer
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            _, text = self._cuda.cuGetErrorString(status)
            reason = text.decode() if text else str(status)
            raise BackendError(f"CUDA: {name} failed: {reason}")
        return results[0] if results else None
