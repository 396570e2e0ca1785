"""A strict stand-in for TensorRT's module: just what the backend calls, on a fake GPU.

Its plans are ONNX files, which it runs by ONNX Runtime on the bytes that lie at the tensors' addresses; what
comes out is thus right only if every address, copy and order was. ``tests/sdk/test_fakes.py`` holds every
method and its parameters to the docstrings of the real classes.
"""

from __future__ import annotations

import enum
import hashlib
import json
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime

from tests.sdk.fakes.gpu import CudaFailure, FakeGpu, Misuse


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT64 = 2


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING

    def __init__(self) -> None:
        self.ready = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class FakeTensorRt:
    """The module. ``refuse`` names a call that answers None or False, as TensorRT does on failure; that of
    ``Runtime`` raises, as the binding does where TensorRT gives it none.

    ``needs_scratch`` is False for engines so simple that they need no scratch memory. ``compiled`` has an
    entry for each engine that TensorRT-RTX, versions 1.x, had to compile kernels for.
    """

    __slots__ = ("__version__", "compiled", "gpu", "needs_scratch", "refuse")

    ILogger = ILogger
    DataType = DataType
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy

    def __init__(self, gpu: FakeGpu, version: str = "10.3.0") -> None:
        self.gpu = gpu
        self.__version__ = version
        self.refuse: str | None = None
        self.needs_scratch = True
        self.compiled: list[str] = []

    @property
    def is_rtx(self) -> bool:
        return self.__version__.startswith("1.")

    @property
    def IRuntimeCache(self) -> type[IRuntimeCache]:
        if not self.is_rtx:
            raise AttributeError("TensorRT has no runtime cache")
        return IRuntimeCache

    def Runtime(self, logger: ILogger) -> Runtime:
        if not getattr(logger, "ready", False):
            raise TypeError("ILogger.__init__() must be called when overriding __init__")
        if self.refuse == "Runtime":
            logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Runtime(self, logger)


class _Living:
    """An object of TensorRT: used and destroyed on the thread whose context is current, and while it is."""

    __slots__ = ("logger", "trt")

    def __init__(self, trt: FakeTensorRt, logger: ILogger) -> None:
        self.trt = trt
        self.logger = logger
        trt.gpu.objects.append(type(self).__name__)

    def __del__(self) -> None:
        gpu, what = self.trt.gpu, type(self).__name__
        gpu.objects.remove(what)
        gpu.calls.append(f"~{what}")
        if threading.get_ident() not in gpu.current:
            gpu.misuses.append(f"{what} was destroyed where no context is current")

    def granted(self, name: str) -> bool:
        """Note the call; False if it shall fail, with a line in the log."""
        try:
            self.trt.gpu.call(name)
        except CudaFailure as error:
            self.logger.log(ILogger.ERROR, str(error))
            return False
        if self.trt.refuse == name:
            self.logger.log(ILogger.WARNING, "a warning that nobody asked for")
            self.logger.log(ILogger.ERROR, f"Error Code 4:\n{name} was refused")
            return False
        return True


@lru_cache
def session_of(plan: bytes) -> Any:
    """One a plan, and not one a load: the tests load the same plans hundreds of times."""
    return onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])


class Runtime(_Living):
    __slots__ = ()

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if not self.granted("deserialize_cuda_engine"):
            return None
        try:
            session = session_of(serialized_engine)
        except Exception:
            self.logger.log(ILogger.ERROR, "Serialization assertion magicTag failed")
            return None
        kernels = hashlib.sha256(serialized_engine).hexdigest()[:8]
        return ICudaEngine(self, session, len(serialized_engine), kernels)


class ICudaEngine(_Living):
    __slots__ = ("_kernels", "_runtime", "_session", "_size_bytes")

    def __init__(self, runtime: Runtime, session: Any, size_bytes: int, kernels: str) -> None:
        super().__init__(runtime.trt, runtime.logger)
        self._kernels = kernels
        self._runtime = runtime
        self._session = session
        self._size_bytes = size_bytes

    @property
    def num_io_tensors(self) -> int:
        return len(self._nodes())

    @property
    def device_memory_size_v2(self) -> int:
        return 4096 + self._size_bytes if self.trt.needs_scratch else 0  # every engine another amount

    def get_tensor_name(self, index: int) -> str:
        return [*self._nodes()][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        is_input = any(node.name == name for node in self._session.get_inputs())
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        types = {"tensor(float)": DataType.FLOAT, "tensor(int64)": DataType.INT64}
        return types.get(self._nodes()[name].type, DataType.HALF)

    def get_tensor_shape(self, name: str) -> list[int]:
        return [size if isinstance(size, int) else -1 for size in self._nodes()[name].shape]

    def create_runtime_config(self) -> IRuntimeConfig | None:
        if not self.trt.is_rtx:
            raise Misuse("TensorRT before 10.11 has no runtime configuration")
        return IRuntimeConfig(self.trt, self.logger) if self.granted("create_runtime_config") else None

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy | IRuntimeConfig
    ) -> IExecutionContext | None:
        cache = None
        if isinstance(strategy, IRuntimeConfig):
            strategy, cache = strategy._strategy, strategy._cache
        if strategy is not ExecutionContextAllocationStrategy.USER_MANAGED:
            raise Misuse("each context would get scratch memory of its own")
        return IExecutionContext(self, cache) if self.granted("create_execution_context") else None

    def _nodes(self) -> dict[str, Any]:
        return {node.name: node for node in (*self._session.get_inputs(), *self._session.get_outputs())}


class IRuntimeConfig(_Living):
    __slots__ = ("_cache", "_strategy")

    def __init__(self, trt: FakeTensorRt, logger: ILogger) -> None:
        super().__init__(trt, logger)
        self._cache: IRuntimeCache | None = None
        self._strategy = ExecutionContextAllocationStrategy.STATIC

    def create_runtime_cache(self) -> IRuntimeCache | None:
        return IRuntimeCache(self.trt, self.logger) if self.granted("create_runtime_cache") else None

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        if not self.granted("set_runtime_cache"):
            return False
        self._cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = strategy


class IRuntimeCache(_Living):
    """Serializes to the version of its library and the names of the engines whose kernels it holds."""

    __slots__ = ("_kernels",)

    def __init__(self, trt: FakeTensorRt, logger: ILogger) -> None:
        super().__init__(trt, logger)
        self._kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        if not self.granted("deserialize"):
            return False
        version, kernels = json.loads(blob)  # a real one may crash on bytes that it never wrote
        if version != self.trt.__version__:
            return False
        self._kernels.update(kernels)
        return True

    def serialize(self) -> memoryview | None:
        if not self.granted("serialize"):
            return None
        return memoryview(json.dumps([self.trt.__version__, sorted(self._kernels)]).encode())


class IExecutionContext(_Living):
    __slots__ = ("_addresses", "_cache", "_engine", "_ran", "_scratch", "_shapes")

    def __init__(self, engine: ICudaEngine, cache: IRuntimeCache | None = None) -> None:
        super().__init__(engine.trt, engine.logger)
        self._engine = engine
        self._cache = cache
        self._ran = False
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._scratch: tuple[int, int] | None = None

    def __del__(self) -> None:
        bound = [*self._addresses.values(), *(self._scratch or ())[:1]]
        if freed := [f"{address:#x}" for address in bound if address not in self.trt.gpu.memory]:
            self.trt.gpu.misuses.append(f"memory {', '.join(freed)} was freed under a context that uses it")
        super().__del__()

    def set_device_memory(self, memory: int, size: int) -> None:
        if memory % 256 or size < self._engine.device_memory_size_v2:
            raise Misuse("scratch memory that is too small or not aligned")
        self._scratch = memory, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if not self.granted("set_input_shape"):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> list[int]:
        shape = list(self._shapes.get(name, self._engine.get_tensor_shape(name)))
        batch = {given[0] for given in self._shapes.values()}  # the one dimension that these plans leave open
        return [batch.copy().pop() if size == -1 and batch else size for size in shape]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if not self.granted("set_tensor_address"):
            return False
        if name not in self._engine._nodes():
            raise Misuse(f"no tensor {name}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if set(self._addresses) != set(self._engine._nodes()) or self._scratch is None:
            raise Misuse("a tensor has no address, or the context no scratch memory")
        if not self.granted("execute_async_v3"):
            return False
        self._compile()
        self.trt.gpu.put(stream_handle, self._execute)
        return True

    def _compile(self) -> None:
        """TensorRT-RTX compiles what it runs for the first time, unless a cache has it."""
        if self._ran or not self.trt.is_rtx:
            return
        self._ran = True
        kernels = self._engine._kernels
        if self._cache is None or kernels not in self._cache._kernels:
            self.trt.compiled.append(kernels)
        if self._cache is not None:
            self._cache._kernels.add(kernels)

    def _execute(self) -> None:
        assert self._scratch is not None
        self.trt.gpu.bytes_at(*self._scratch)[:] = 0x5A  # whatever another engine kept there is gone
        feeds = {node.name: self._tensor(node.name) for node in self._engine._session.get_inputs()}
        outputs = self._engine._session.run(None, {name: value.copy() for name, value in feeds.items()})
        for node, value in zip(self._engine._session.get_outputs(), outputs, strict=True):
            self._tensor(node.name)[...] = value

    def _tensor(self, name: str) -> np.ndarray:
        dtype = {DataType.FLOAT: "<f4", DataType.INT64: "<i8"}[self._engine.get_tensor_dtype(name)]
        shape = self.get_tensor_shape(name)
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.trt.gpu.bytes_at(self._addresses[name], size_bytes).view(dtype).reshape(shape)
