"""The driver seam: the few CUDA calls that the TensorRT backend makes, as a protocol, and its errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from sdk.errors import BackendError

Array = npt.NDArray[Any]


class BindingMissing(BackendError):
    """Neither cuda-python nor pycuda can be imported."""


class BindingUnfit(BackendError):
    """cuda-python needs functions that the driver lacks."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that a driver opened.

    ``cuda_version``, like "13.0", is the newest that its driver serves. ``multiprocessors`` tells GPUs apart
    that share a name, as all of Orin's do; 0 where it is unknown.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    cuda_version: str
    multiprocessors: int = 0


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

    def capture(self, stream: int, work: Callable[[], None]) -> int | None:
        """What ``work`` puts on ``stream``, as a graph that ``launch`` repeats; None where that can't be."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Put a graph's work on ``stream``, by one call."""
        ...

    def destroy_graph(self, graph: int) -> None: ...

    def close(self) -> None:
        """Give the primary context back."""
        ...


def version_text(number: int) -> str:
    """12060 as "12.6"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
