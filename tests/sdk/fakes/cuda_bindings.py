"""A strict stand-in for the module ``cuda.bindings.driver``: just what the seam calls, on a fake GPU.

``tests/sdk/test_fakes.py`` holds every function's parameters and number of results to the real docstrings.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from tests.sdk.fakes.gpu import CudaFailure, Event, FakeGpu, Stream


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_UNKNOWN = 999


class CUstream_flags(enum.IntEnum):
    CU_STREAM_DEFAULT = 0
    CU_STREAM_NON_BLOCKING = 1


class CUevent_flags(enum.IntEnum):
    CU_EVENT_DEFAULT = 0


class CUstreamCaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class CUdevice_attribute(enum.IntEnum):
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


def answers(function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A failure is a status, not an exception; a success is one in front of the results."""
    needs_context = not function.__name__.startswith(("cuInit", "cuDevice", "cuDriver", "cuCtxSet"))

    @wraps(function)
    def call(self: FakeCudaBindings, *arguments: Any) -> tuple[Any, ...]:
        try:
            self.gpu.call(function.__name__, current=needs_context)
            return (CUresult.CUDA_SUCCESS, *function(self, *arguments))
        except CudaFailure as error:
            self.reason = str(error)
            if function.__name__ == "cuStreamEndCapture":  # which ends the capture, whatever it answers
                self.gpu.stream(arguments[0]).captured = None
            results = 0 if function.__name__.startswith(NO_RESULT) else 1
            return (CUresult.CUDA_ERROR_UNKNOWN, *[None] * results)

    return call


NO_RESULT = (
    "cuInit", "cuDevicePrimaryCtxRelease", "cuCtxSet", "cuStreamSync", "cuStreamDestroy", "cuEventRecord",
    "cuEventDestroy", "cuMemFree", "cuMemcpy", "cuStreamBeginCapture", "cuGraphLaunch", "cuGraphDestroy",
    "cuGraphExecDestroy",
)  # fmt: skip


class FakeCudaBindings:
    __slots__ = ("gpu", "reason")

    CUresult = CUresult
    CUstream_flags = CUstream_flags
    CUevent_flags = CUevent_flags
    CUdevice_attribute = CUdevice_attribute
    CUstreamCaptureMode = CUstreamCaptureMode

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu
        self.reason = ""

    def cuGetErrorString(self, error: CUresult) -> tuple[Any, ...]:
        assert error is CUresult.CUDA_ERROR_UNKNOWN
        return CUresult.CUDA_SUCCESS, self.reason.encode()

    @answers
    def cuInit(self, Flags: int) -> tuple[Any, ...]:
        assert Flags == 0
        return ()

    @answers
    def cuDriverGetVersion(self) -> tuple[Any, ...]:
        return (12060,)

    @answers
    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        if ordinal >= self.gpu.count:
            raise CudaFailure("invalid device ordinal")
        return (ordinal,)

    @answers
    def cuDeviceGetName(self, length: int, dev: int) -> tuple[Any, ...]:
        return (self.gpu.name.encode().ljust(length, b"\0"),)

    @answers
    def cuDeviceTotalMem(self, dev: int) -> tuple[Any, ...]:
        return (32 << 30,)

    @answers
    def cuDeviceGetAttribute(self, attrib: CUdevice_attribute, dev: int) -> tuple[Any, ...]:
        if attrib is CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
            return (self.gpu.multiprocessors,)
        major = CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        return (self.gpu.capability[0 if attrib is major else 1],)

    @answers
    def cuDevicePrimaryCtxRetain(self, dev: int) -> tuple[Any, ...]:
        return (self.gpu.retain(),)

    @answers
    def cuDevicePrimaryCtxRelease(self, dev: int) -> tuple[Any, ...]:
        self.gpu.release()
        return ()

    @answers
    def cuCtxSetCurrent(self, ctx: int) -> tuple[Any, ...]:
        if ctx:
            assert self.gpu.retained
            self.gpu.current[threading.get_ident()] = ctx
        else:
            del self.gpu.current[threading.get_ident()]
        return ()

    @answers
    def cuStreamCreate(self, Flags: int) -> tuple[Any, ...]:
        handle = self.gpu.handle()
        self.gpu.streams[handle] = Stream()
        return (handle,)

    @answers
    def cuStreamSynchronize(self, hStream: int) -> tuple[Any, ...]:
        self.gpu.synchronize(hStream)
        return ()

    @answers
    def cuStreamDestroy(self, hStream: int) -> tuple[Any, ...]:
        self.gpu.destroy_stream(hStream)
        return ()

    @answers
    def cuEventCreate(self, Flags: int) -> tuple[Any, ...]:
        handle = self.gpu.handle()
        self.gpu.events[handle] = Event()
        return (handle,)

    @answers
    def cuEventRecord(self, hEvent: int, hStream: int) -> tuple[Any, ...]:
        self.gpu.record(self.gpu.events[hEvent], hStream)
        return ()

    @answers
    def cuEventElapsedTime(self, hStart: int, hEnd: int) -> tuple[Any, ...]:
        return (self.gpu.elapsed_ms(self.gpu.events[hStart], self.gpu.events[hEnd]),)

    @answers
    def cuEventDestroy(self, hEvent: int) -> tuple[Any, ...]:
        del self.gpu.events[hEvent]
        return ()

    @answers
    def cuMemAlloc(self, bytesize: int) -> tuple[Any, ...]:
        return (self.gpu.allocate(bytesize),)

    @answers
    def cuMemFree(self, dptr: int) -> tuple[Any, ...]:
        del self.gpu.memory[dptr]
        return ()

    @answers
    def cuMemHostAlloc(self, bytesize: int, Flags: int) -> tuple[Any, ...]:
        return (self.gpu.allocate_host(bytesize).ctypes.data,)

    @answers
    def cuMemFreeHost(self, p: int) -> tuple[Any, ...]:
        del self.gpu.host[p]
        return ()

    @answers
    def cuMemcpyHtoDAsync(
        self, dstDevice: int, srcHost: int, ByteCount: int, hStream: int
    ) -> tuple[Any, ...]:
        self.gpu.copy_to_device(dstDevice, srcHost, ByteCount, hStream)
        return ()

    @answers
    def cuMemcpyDtoHAsync(
        self, dstHost: int, srcDevice: int, ByteCount: int, hStream: int
    ) -> tuple[Any, ...]:
        self.gpu.copy_to_host(dstHost, srcDevice, ByteCount, hStream)
        return ()

    @answers
    def cuStreamBeginCapture(self, hStream: int, mode: CUstreamCaptureMode) -> tuple[Any, ...]:
        self.gpu.begin_capture(hStream)
        return ()

    @answers
    def cuStreamEndCapture(self, hStream: int) -> tuple[Any, ...]:
        return (self.gpu.end_capture(hStream),)

    @answers
    def cuGraphInstantiate(self, hGraph: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        return (self.gpu.instantiate(hGraph),)

    @answers
    def cuGraphLaunch(self, hGraphExec: int, hStream: int) -> tuple[Any, ...]:
        self.gpu.launch(hGraphExec, hStream)
        return ()

    @answers
    def cuGraphExecDestroy(self, hGraphExec: int) -> tuple[Any, ...]:
        del self.gpu.graphs[hGraphExec]
        return ()

    @answers
    def cuGraphDestroy(self, hGraph: int) -> tuple[Any, ...]:
        del self.gpu.graphs[hGraph]
        return ()
