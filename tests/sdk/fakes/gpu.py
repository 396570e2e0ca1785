"""A GPU made of numpy arrays, as strict as the real one is: the fakes of CUDA and TensorRT run on it.

Work that is put on a stream happens when the stream is synchronized, and not before, so that whoever reads
too early, or changes or frees a buffer too early, is found out. Freed memory, a foreign thread, a context
that isn't current and an object that outlives its context are all misuse.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


class Misuse(BaseException):
    """The code under test did what would crash or corrupt a real GPU's process; no handler may swallow it."""


class CudaFailure(Exception):
    """A call failed as a real one might; the fakes turn it into their library's way of saying so."""


@dataclass(eq=False)
class Stream:
    pending: list[Callable[[], None]] = field(default_factory=list)
    captured: list[Callable[[], None]] | None = None  # while a capture is under way


@dataclass(eq=False)
class Event:
    time_ms: float | None = None


@dataclass
class FakeGpu:
    """Attributes:
    calls: every call that reached the GPU, in order, by name.
    fail_at: the index in ``calls`` of the one that fails.
    is_sticky: True if all after it fail too, as they do once a kernel has gone astray.
    misuses: those noticed where no exception can be raised, as in a destructor.
    """

    name: str = "Fake Orin"
    capability: tuple[int, int] = (8, 7)
    calls: list[str] = field(default_factory=list)
    fail_at: int | None = None
    is_sticky: bool = False
    count: int = 1
    multiprocessors: int = 16
    captures: bool = True  # whether graphs can be made
    retained: int = 0
    current: dict[int, int] = field(default_factory=dict)  # contexts by thread
    memory: dict[int, np.ndarray] = field(default_factory=dict)
    host: dict[int, np.ndarray] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)
    graphs: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    objects: list[str] = field(default_factory=list)  # of TensorRT
    default: list[Callable[[], None]] = field(default_factory=list)
    misuses: list[str] = field(default_factory=list)
    clock_ms: float = 0.0
    next_handle: int = 0x10000

    def call(self, name: str, *, current: bool = True) -> None:
        """Note a call; fail it if it is the one that shall fail."""
        self.calls.append(name)
        if current and threading.get_ident() not in self.current:
            raise Misuse(f"{name}: no context is current on this thread")
        index = len(self.calls) - 1
        if self.fail_at is not None and (index == self.fail_at or (self.is_sticky and index > self.fail_at)):
            if "ynchronize" in name:  # the device is lost, and with it whatever was under way
                for stream in self.streams.values():
                    stream.pending.clear()
            raise CudaFailure(f"the test let {name} fail")

    def handle(self) -> int:
        self.next_handle += 0x100000
        return self.next_handle

    def require_nothing_held(self) -> None:
        """Everything was given back, in an order that a real driver bears."""
        held = [
            f"{len(getattr(self, kind))} {kind}"
            for kind in ("memory", "host", "streams", "events", "graphs", "objects", "current")
            if getattr(self, kind)
        ]
        if self.retained:
            held.append(f"the primary context {self.retained} times")
        assert held == []
        assert self.misuses == []

    # --- what the fakes are made of

    def retain(self) -> int:
        self.retained += 1
        return 0x77

    def release(self) -> None:
        if self.retained < 1:
            raise Misuse("the primary context was released more often than retained")
        self.retained -= 1
        if held := [*self.memory, *self.host, *self.streams, *self.events, *self.graphs, *self.objects]:
            raise Misuse(f"the context was released over {held}")

    def allocate(self, size_bytes: int) -> int:
        if size_bytes < 1:
            raise CudaFailure("invalid argument")
        address = self.handle()
        self.memory[address] = np.full(size_bytes, 0xA5, np.uint8)  # never zeros: nobody may count on them
        return address

    def allocate_host(self, size_bytes: int) -> np.ndarray:
        array = np.full(size_bytes, 0xA5, np.uint8)
        self.host[array.ctypes.data] = array
        return array

    def bytes_at(self, address: int, size_bytes: int) -> np.ndarray:
        if address not in self.memory:
            raise CudaFailure(f"an illegal memory access at {address:#x}")
        memory = self.memory[address]
        if size_bytes > memory.nbytes:
            raise CudaFailure(f"an illegal memory access: {size_bytes} bytes of {memory.nbytes}")
        return memory[:size_bytes]

    def host_at(self, address: int, size_bytes: int) -> np.ndarray:
        if address not in self.host:
            raise Misuse("an asynchronous copy of memory that isn't page-locked, or no more")
        if size_bytes != self.host[address].nbytes:
            raise Misuse(f"a copy of {size_bytes} bytes of {self.host[address].nbytes}")
        return self.host[address]

    def put(self, stream: int, work: Callable[[], None]) -> None:
        found = self.stream(stream)
        (found.pending if found.captured is None else found.captured).append(work)

    def begin_capture(self, stream: int) -> None:
        if not self.captures:
            raise CudaFailure("capture isn't supported")
        if self.stream(stream).captured is not None:
            raise Misuse("a capture is under way on this stream")
        self.stream(stream).captured = []

    def end_capture(self, stream: int) -> int:
        captured, self.stream(stream).captured = self.stream(stream).captured, None
        if captured is None:
            raise Misuse("no capture is under way on this stream")
        handle = self.handle()
        self.graphs[handle] = captured
        return handle

    def instantiate(self, graph: int) -> int:
        handle = self.handle()
        self.graphs[handle] = list(self.graphs[graph])
        return handle

    def launch(self, graph: int, stream: int) -> None:
        if graph not in self.graphs:
            raise Misuse("no such graph")
        for work in self.graphs[graph]:
            self.put(stream, work)

    def stream(self, stream: int) -> Stream:
        if stream not in self.streams:
            raise Misuse(f"no such stream: {stream!r}")
        return self.streams[stream]

    def destroy_stream(self, stream: int) -> None:
        if self.stream(stream).pending:
            raise Misuse("the stream was destroyed with work on it")
        del self.streams[stream]

    def synchronize(self, stream: int) -> None:
        if stream == 0:  # the default stream, on which nothing is put but events
            for work in self.default:
                work()
            self.default.clear()
            return
        if self.stream(stream).captured is not None:
            raise Misuse("a stream can't be waited for while it is captured")
        pending, self.stream(stream).pending = self.stream(stream).pending, []
        for work in pending:
            work()

    def copy_to_device(self, address: int, host: int, size_bytes: int, stream: int) -> None:
        def copy() -> None:
            self.bytes_at(address, size_bytes)[:] = self.host_at(host, size_bytes)

        self.host_at(host, size_bytes)
        self.put(stream, copy)

    def copy_to_host(self, host: int, address: int, size_bytes: int, stream: int) -> None:
        def copy() -> None:
            self.host_at(host, size_bytes)[:] = self.bytes_at(address, size_bytes)

        self.host_at(host, size_bytes)
        self.put(stream, copy)

    def record(self, event: Event, stream: int) -> None:
        def reach() -> None:
            self.clock_ms += 0.5
            event.time_ms = self.clock_ms

        event.time_ms = None
        if stream == 0:
            self.default.append(reach)
        else:
            self.put(stream, reach)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        if start.time_ms is None or end.time_ms is None:
            raise CudaFailure("device not ready")
        return end.time_ms - start.time_ms
