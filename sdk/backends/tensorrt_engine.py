"""One engine in TensorRT: from the plan's bytes to a context whose every tensor has its address.

Written to what TensorRT 10, 11 and TensorRT-RTX have in common: tensors by name, addresses set once, contexts
whose scratch memory the caller supplies. TensorRT reports a failure by None or False and says why in its
log, so the log is kept and goes into the error. *Not executed on a GPU*.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from typing import Any, NamedTuple

from sdk.backends.cuda import Array
from sdk.backends.plan_store import NAMES, BuiltEngine, EngineBackend
from sdk.backends.runtime_cache import RuntimeCache
from sdk.backends.tensorrt_log import errors_into, log_of
from sdk.errors import BackendError

MODULES: dict[EngineBackend, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
EXTRAS: dict[EngineBackend, str] = {
    "tensorrt": "pip install 'edge-purify[tensorrt]', or on a Jetson 'edge-purify[jetson]'",
    "tensorrt-rtx": "pip install 'edge-purify[rtx]'",
}
SERVED = {"tensorrt": (10, 11), "tensorrt-rtx": (1,)}  # major versions
LOG_LINES = 4  # of the latest errors, which the next failure quotes


def import_library(name: EngineBackend) -> Any:
    """The TensorRT module of backend ``name``.

    Raises:
        BackendError: it can't be imported; the message names the extra that brings it.
    """
    try:
        module = import_module(MODULES[name])
        if hasattr(module, "Runtime"):
            return module
        problem = "it is some other module of that name"
    except (ImportError, OSError) as error:  # OSError: a shared library underneath is missing
        problem = str(error)
    raise BackendError(
        f"backend {name}: {MODULES[name]} can't be imported ({problem})",
        hint=f"{EXTRAS[name]}; 'edge-purify doctor' says what this machine has",
    )


class Buffer(NamedTuple):
    """A tensor's memory on the device, with a page-locked array of the same shape that feeds or drains it."""

    dtype: str
    shape: tuple[int, ...]
    address: int
    host: Array


class Library:
    """The TensorRT module with its log and runtime; nothing touches the GPU before ``open``.

    Raises:
        BackendError: this version isn't served.
    """

    def __init__(self, module: Any, backend: EngineBackend) -> None:
        self.module = module
        self.version: str = module.__version__
        self.title = f"{NAMES[backend]} {self.version}"
        self.runtime: Any = None
        self._held = ExitStack()
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        if int(self.version.split(".")[0]) not in SERVED[backend]:
            served = " or ".join(f"{major}.x" for major in SERVED[backend])
            raise BackendError(
                f"backend {backend}: expected {NAMES[backend]} {served}, got {self.version}",
                hint="install one of those, or use --backend onnxruntime",
            )

    def open(self) -> None:
        """Start TensorRT on this thread.

        Raises:
            BackendError: it can't start here, as with a driver that is too old for it.
        """
        log = log_of(self.module)
        self._held.enter_context(errors_into(log, self._lines))
        try:
            self.runtime = self.module.Runtime(log)
        except (TypeError, RuntimeError):  # what the binding makes of a null pointer; the log says why
            self._held.close()
            raise BackendError(
                f"{self.title} can't start: {self.why()}",
                hint="is the driver new enough? 'edge-purify doctor' looks",
            ) from None

    def close(self) -> None:
        self.runtime = None
        self._held.close()

    def why(self) -> str:
        """What TensorRT logged of the latest failure, on one line; the lines are then forgotten."""
        said = " | ".join(self._lines)
        self._lines.clear()
        return " ".join(said.split()) or "it gave no reason"


class LoadedEngine:
    """An engine whose tensors are bound to buffers that it shares with other engines.

    Args:
        library: opened, on this thread.
        built: the plan and its sidecar.
        inputs, outputs: a buffer for each tensor, by name; the engine must have just these.
        rebuild: the command that builds the engine again.

    Raises:
        BackendError: the plan is damaged, TensorRT can't load it, or its tensors are others.
    """

    def __init__(
        self,
        library: Library,
        built: BuiltEngine,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        rebuild: str,
    ) -> None:
        self.id = built.sidecar.engine
        self.inputs = inputs
        self.outputs = outputs
        self._library = library
        self._where = f"engine {self.id} ({built.plan})"
        self._hint = f"build it again: {rebuild} --force"
        self._context: Any = None
        self._config: Any = None
        self._engine: Any = library.runtime.deserialize_cuda_engine(built.read())
        if self._engine is None:
            raise self._failure("can't load it")
        try:
            self._check_names()
            self.scratch_bytes = int(self._engine.device_memory_size_v2)
        except BaseException:
            self.close()
            raise

    def bind(self, scratch: int, scratch_bytes: int, cache: RuntimeCache | None = None) -> None:
        """Make the context, over scratch memory that no other engine uses at the same time.

        Args:
            cache: TensorRT-RTX's, for the kernels that it compiles; TensorRT compiles none.

        Raises:
            BackendError: there is no memory for it, or a tensor has another type or shape.
        """
        strategy = self._library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        self._config = None if cache is None else cache.config(self._engine, strategy)
        self._context = self._engine.create_execution_context(
            strategy if self._config is None else self._config
        )
        if self._context is None:
            raise self._failure("can't make a context for it")
        self._context.set_device_memory(scratch, scratch_bytes)
        for name, buffer in self.inputs.items():
            if -1 in tuple(self._engine.get_tensor_shape(name)):  # built with a profile
                self._ask(self._context.set_input_shape(name, buffer.shape), f"refused the shape of {name}")
        for name, buffer in {**self.inputs, **self.outputs}.items():
            self._check_tensor(name, buffer)
            self._ask(
                self._context.set_tensor_address(name, buffer.address), f"refused the address of {name}"
            )

    def enqueue(self, stream: int) -> None:
        """Put one run on ``stream``; its outputs are there once the stream has come that far.

        Raises:
            BackendError: TensorRT refused.
        """
        if not self._context.execute_async_v3(stream):
            raise BackendError(
                f"{self._library.title} refused to run engine {self.id}: {self._library.why()}"
            )

    def unbind(self) -> None:
        self._context = None  # before the configuration and the engine that it was made from
        self._config = None

    def close(self) -> None:
        self.unbind()
        self._engine = None

    def _check_names(self) -> None:
        modes = self._library.module.TensorIOMode
        found: dict[Any, set[str]] = {modes.INPUT: set(), modes.OUTPUT: set()}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            found[self._engine.get_tensor_mode(name)].add(name)
        for what, mode, buffers in (
            ("inputs", modes.INPUT, self.inputs),
            ("outputs", modes.OUTPUT, self.outputs),
        ):
            if found[mode] != set(buffers):
                raise BackendError(
                    f"{self._where}: expected {what} {', '.join(sorted(buffers))}, "
                    f"got {', '.join(sorted(found[mode])) or 'none'}",
                    hint=self._hint,
                )

    def _check_tensor(self, name: str, buffer: Buffer) -> None:
        dtype = self._engine.get_tensor_dtype(name).name
        got = (_DTYPES.get(dtype, dtype), tuple(self._context.get_tensor_shape(name)))
        if got != (buffer.dtype, buffer.shape):
            raise BackendError(
                f"{self._where}: expected {name} {buffer.dtype} {list(buffer.shape)}, "
                f"got {got[0]} {list(got[1])}",
                hint=self._hint,
            )

    def _ask(self, granted: bool, refusal: str) -> None:
        if not granted:
            raise self._failure(refusal)

    def _failure(self, what: str) -> BackendError:
        return BackendError(
            f"{self._where}: {self._library.title} {what}: {self._library.why()}",
            hint=self._hint,
        )


_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32"}
