"""The fake GPU of ``FakeTensorRt`` over the stub driver of ``libcuda.c``, for the real CUDA bindings.

The stub's device memory is the host's, so the fake TensorRT reads and writes it at the addresses that the
real bindings gave it, at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial

import numpy as np

from sdk.backends.cuda import open_driver
from sdk.backends.tensorrt import TensorRtBackend
from sdk.bundle import Bundle
from sdk.choices import CudaBinding
from tests.sdk.fakes.gpu import FakeGpu
from tests.sdk.fakes.tensorrt import FakeTensorRt


class Anywhere(dict[int, int]):
    """The driver knows which contexts are current, so here every thread has one."""

    def __contains__(self, thread: object) -> bool:
        return True


class StubGpu(FakeGpu):
    """Checks nothing: the stub driver does."""

    def __init__(self) -> None:
        super().__init__()
        self.current = Anywhere()

    def call(self, name: str, *, current: bool = True) -> None:
        pass

    def put(self, stream: int, work: Callable[[], None]) -> None:
        work()

    def bytes_at(self, address: int, size_bytes: int) -> np.ndarray:
        return np.frombuffer((ctypes.c_uint8 * size_bytes).from_address(address), np.uint8)


class Everything(dict[int, np.ndarray]):
    def __contains__(self, address: object) -> bool:
        return True


def load(folder: str, binding: CudaBinding) -> TensorRtBackend:
    """A backend of the bundle in ``folder`` that calls the driver by one real binding."""
    gpu = StubGpu()
    gpu.memory = Everything()
    driver = partial(open_driver, binding=binding)
    return TensorRtBackend(Bundle.open(folder), module=FakeTensorRt(gpu), open_driver=driver)
