"""CUDA through ``pycuda.driver``, which raises on failure and frees what is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

from sdk.backends.cuda.driver import Array, Gpu, one_line, version_text
from sdk.errors import BackendError


class PyCuda:
    """The driver API through ``pycuda.driver``, which raises on failure and frees what is forgotten.

    Never by ``pycuda.autoinit``, which makes a context of its own.
    """

    def __init__(self, cuda: Any, device: int = 0) -> None:
        self._cuda = cuda
        self.binding = f"pycuda {import_module('pycuda').VERSION_TEXT}"
        self._objects: dict[int, Any] = {}  # by the integer that stands for each
        _guarded("init", cuda.init)
        chosen = _guarded("Device", cuda.Device, device)
        count = cuda.device_attribute.MULTIPROCESSOR_COUNT
        self.gpu = Gpu(
            _guarded("Device.name", chosen.name),
            "{}.{}".format(*_guarded("Device.compute_capability", chosen.compute_capability)),
            int(_guarded("Device.total_memory", chosen.total_memory)),
            version_text(_guarded("get_driver_version", cuda.get_driver_version)),
            int(_guarded("Device.get_attribute", chosen.get_attribute, count)),
        )
        self._context = _guarded("Device.retain_primary_context", chosen.retain_primary_context)
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

    def capture(self, stream: int, work: Callable[[], None]) -> int | None:
        return None  # pycuda has no graphs

    def launch(self, graph: int, stream: int) -> None:
        raise BackendError("CUDA: pycuda has no graphs")

    def destroy_graph(self, graph: int) -> None: ...

    def close(self) -> None:
        try:
            _guarded("Context.pop", self._context.pop)
        finally:
            _guarded("Context.detach", self._context.detach)


def _guarded(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call into pycuda, whose own errors have no base but ``Exception``.

    A pycuda object is freed with its last reference, so a failure must keep none of them in its traceback.
    """
    try:
        return call(*arguments)
    except Exception as error:
        reason = one_line(error)
    del call, arguments
    raise BackendError(f"CUDA: {name} failed: {reason}")
