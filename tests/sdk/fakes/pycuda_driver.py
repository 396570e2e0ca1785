"""A strict stand-in for the module ``pycuda.driver``: just what the seam calls, on a fake GPU.

Written after pycuda's ``wrap_cudadrv.cpp``; pycuda needs the CUDA toolkit to install, so nothing holds this
to the real one where there is none.
"""

from __future__ import annotations

import threading

import numpy as np

from tests.sdk.fakes.gpu import CudaFailure, FakeGpu, Misuse
from tests.sdk.fakes.gpu import Event as GpuEvent
from tests.sdk.fakes.gpu import Stream as GpuStream


class Error(Exception):
    pass


class device_attribute:
    MULTIPROCESSOR_COUNT = 16


class FakePyCuda:
    __slots__ = ("_initialized", "gpu")

    device_attribute = device_attribute

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu
        self._initialized = False

    def init(self, flags: int = 0) -> None:
        note(self.gpu, "init", current=False)
        self._initialized = True

    def get_driver_version(self) -> int:
        return 12060

    def Device(self, number: int) -> Device:
        if not self._initialized:
            raise Misuse("init comes first")
        return Device(self.gpu)

    def Stream(self, flags: int = 0) -> Stream:
        return Stream(self.gpu)

    def Event(self) -> Event:
        return Event(self.gpu)

    def mem_alloc(self, size: int) -> DeviceAllocation:
        note(self.gpu, "mem_alloc")
        return DeviceAllocation(self.gpu, self.gpu.allocate(size))

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        note(self.gpu, "pagelocked_empty")
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return HostAllocation(self.gpu, self.gpu.allocate_host(size_bytes)).array(shape, dtype)

    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: Stream) -> None:
        note(self.gpu, "memcpy_htod_async")
        self.gpu.copy_to_device(dest, src.ctypes.data, src.nbytes, stream.handle)

    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: Stream) -> None:
        note(self.gpu, "memcpy_dtoh_async")
        self.gpu.copy_to_host(dest.ctypes.data, src, dest.nbytes, stream.handle)


def note(gpu: FakeGpu, name: str, *, current: bool = True) -> None:
    try:
        gpu.call(name, current=current)
    except CudaFailure as error:
        raise Error(str(error)) from None


class Device:
    __slots__ = ("gpu",)

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def name(self) -> str:
        return self.gpu.name

    def get_attribute(self, attribute: int) -> int:
        assert attribute == device_attribute.MULTIPROCESSOR_COUNT
        return self.gpu.multiprocessors

    def compute_capability(self) -> tuple[int, int]:
        return self.gpu.capability

    def total_memory(self) -> int:
        return 32 << 30

    def retain_primary_context(self) -> Context:
        note(self.gpu, "retain_primary_context", current=False)
        self.gpu.retain()
        return Context(self.gpu)


class Context:
    __slots__ = ("gpu",)

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def push(self) -> None:
        note(self.gpu, "Context.push", current=False)
        self.gpu.current[threading.get_ident()] = 1

    def pop(self) -> None:  # a static method, which the seam calls on its context
        note(self.gpu, "Context.pop")
        del self.gpu.current[threading.get_ident()]

    def detach(self) -> None:
        note(self.gpu, "Context.detach", current=False)
        self.gpu.release()


class Stream:
    __slots__ = ("gpu", "handle")

    def __init__(self, gpu: FakeGpu) -> None:
        note(gpu, "Stream")
        self.gpu = gpu
        self.handle = gpu.handle()
        gpu.streams[self.handle] = GpuStream()

    def synchronize(self) -> None:
        note(self.gpu, "Stream.synchronize")
        self.gpu.synchronize(self.handle)

    def __del__(self) -> None:
        if hasattr(self, "handle"):  # unlike after a failed call
            self.gpu.destroy_stream(self.handle)


class Event:
    __slots__ = ("gpu",)

    def __init__(self, gpu: FakeGpu) -> None:
        note(gpu, "Event")
        self.gpu = gpu
        gpu.events[id(self)] = GpuEvent()

    def record(self, stream: Stream) -> Event:
        note(self.gpu, "Event.record")
        self.gpu.record(self.gpu.events[id(self)], stream.handle)
        return self

    def time_since(self, event: Event) -> float:
        note(self.gpu, "Event.time_since")
        return self.gpu.elapsed_ms(self.gpu.events[id(event)], self.gpu.events[id(self)])

    def __del__(self) -> None:
        if hasattr(self, "gpu"):
            del self.gpu.events[id(self)]


class DeviceAllocation:
    __slots__ = ("address", "gpu")

    def __init__(self, gpu: FakeGpu, address: int) -> None:
        self.gpu = gpu
        self.address = address

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        note(self.gpu, "DeviceAllocation.free")
        del self.gpu.memory[self.address]


class HostAllocation:
    __slots__ = ("gpu", "memory")

    def __init__(self, gpu: FakeGpu, memory: np.ndarray) -> None:
        self.gpu = gpu
        self.memory = memory

    def array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return np.asarray(_Exposed(self, shape, dtype))

    def free(self) -> None:
        note(self.gpu, "HostAllocation.free")
        del self.gpu.host[self.memory.ctypes.data]


class _Exposed:
    """Lets numpy build an array whose ``base`` has ``free``, as pycuda's page-locked arrays have."""

    def __init__(self, allocation: HostAllocation, shape: tuple[int, ...], dtype: str) -> None:
        self.free = allocation.free
        self.__array_interface__ = {
            "data": (allocation.memory.ctypes.data, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 3,
        }
