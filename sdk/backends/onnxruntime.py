"""ONNX Runtime: one session per engine, sharing the processor without spinning against each other.

Why it is set up so, measured on two busy cores, with a purifier of 0.17 ms and a classifier of 1.6 ms unless
it says otherwise:

* Drawing among sessions of two spinning threads each takes 15 ms a frame beside a busy process, without
  spinning 2.0 ms, and with one thread 1.9 ms. On idle cores two threads take 1.6 ms without spinning, and
  one 2.1. So each session gets what its engine gains by when it is loaded, and none spins.
* Spinning that stops with the run (``force_spinning_stop``) takes 1.4 ms on idle cores, but spins on the core
  that reads the next frame: a video goes through at 297 frames/s with it, and at 363 without.
* One global pool for all sessions is as fast as a pool each with one thread. With two threads it spins,
  which Python can't turn off, and takes 4.7 ms of CPU a frame instead of 2.5; with engines of 27 ms, 56
  instead of 30. It would also be the whole process's, the application's own sessions included.
* I/O binding saves 5 of a run's 175 microseconds, and 0.1 of 16 ms with images of 224 x 224, and would tie
  the outputs to one buffer: plain ``run`` stays.
* Graphs that were optimized before load in 29 ms instead of 65, four purifiers and two classifiers; but a
  copy outside the bundle must be verified by a hash of its own, which takes the rest: 57 ms, 12 % less.
  With the bundle's own verification, which stays, it is 6 %: nothing is stored.
* All sessions share one arena of memory, since one engine runs at a time: eight purifiers for 224 x 224 take
  131 MiB so, and 314 with an arena each, at the same speed.
* INT8 graphs for CPUs run optimized where 8-bit products don't saturate (x86 with VNNI, ARM): every
  convolution and addition becomes an integer kernel, and a classifier takes 0.45 ms where FP32 takes 1.40.
  Elsewhere, and from bundles with graphs for TensorRT alone, INT8 runs as the graph says, unoptimized: exact
  on any processor and slower than FP32. *Not executed here*: ARM.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sdk.backends.interface import Float
from sdk.backends.providers import Provider, chain, engine_cache, require_kept, with_options
from sdk.backends.sessions import EngineFile, Feeds, SessionBackend, Tensors, one_line
from sdk.bundle import Bundle, Precision
from sdk.choices import GraphKind
from sdk.errors import BackendError, BundleError
from sdk.host.hardware import has_exact_int8

try:
    import onnxruntime
except ImportError as error:
    raise BackendError(
        f"backend onnxruntime: can't be imported ({error})", hint="pip install onnxruntime"
    ) from None

onnxruntime.disable_telemetry_events()  # for who imported it before sdk could set the variable
VERSION: str = onnxruntime.__version__


class OnnxRuntimeBackend(SessionBackend["_Session"]):
    """A bundle's engines as ONNX Runtime sessions.

    Args:
        bundle: a verified bundle.
        precision: "fp32", "fp16" or "int8"; every engine must have it.
        threads: of every session; None takes one, or all that the process may use for an engine that gains
            by them on the CPU.
        provider: what runs them: "cpu", or "cuda" or "tensorrt" by ``onnxruntime-gpu``.
        graphs: the kind of ONNX graph to run where the bundle has two; None takes the provider's.

    Raises:
        BackendError: an engine can't be loaded, doesn't run, or has other inputs or outputs than the bundle
            says; or the provider can't be had.
    """

    name = "onnxruntime"
    version = VERSION

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision = "fp32",
        threads: int | None = None,
        provider: Provider = "cpu",
        *,
        graphs: GraphKind | None = None,
    ) -> None:
        self.provider: Provider = provider
        self.concurrent = provider == "cpu"  # a session's run may be called by several threads at once
        self._providers = chain(onnxruntime, provider)
        self._engine_cache = engine_cache(provider, VERSION)
        _share_memory()
        kind: GraphKind = graphs or ("cpu" if provider == "cpu" else "gpu")
        super().__init__(bundle, precision, threads, may_grow=provider == "cpu", graphs=kind)

    def bare_sessions(self) -> tuple[list[Any], list[Any]]:
        """The ``InferenceSession`` of every purifier and every classifier, to measure them by themselves."""
        return [session.bare for session in self._purifiers], [session.bare for session in self._classifiers]

    def _open(self, file: EngineFile, threads: int) -> _Session:
        providers = with_options(self._providers, self.precision, self._engine_cache, file.sha256)
        session = _Session(file, _options(file, threads), providers)
        require_kept(session.bare, self.provider)
        return session


class _Session:
    """One engine's session; its errors name the engine."""

    def __init__(self, file: EngineFile, options: Any, providers: list[Any]) -> None:
        self._file = file
        try:
            # without a fallback, which prints and goes on with another provider when a run has failed
            self.bare = onnxruntime.InferenceSession(
                file.content(), options, providers=providers, enable_fallback=0
            )
        except BundleError:  # it says itself what is wrong with the file
            raise
        except Exception as error:  # ONNX Runtime's own error classes share no narrower base
            raise file.cannot_load("ONNX Runtime", error) from error
        self.bare._model_bytes = None  # kept for a fallback to other providers, which is disabled
        file.check(_tensors(self.bare.get_inputs()), _tensors(self.bare.get_outputs()))

    def run(self, feeds: Feeds) -> Float:
        try:
            output: Float = self.bare.run(None, feeds)[0]
        except Exception as error:
            raise self._file.failed(one_line(error)) from error
        return output


def _options(file: EngineFile, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # failures come as exceptions; the log would only repeat them
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    # fused 8-bit kernels saturate on some processors; unfused Q/DQ is exact everywhere
    if file.is_quantized and not (file.is_for_cpu and has_exact_int8()):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


@cache
def _share_memory() -> None:
    """Give the process the arena that sessions with ``use_env_allocators`` share; once, as it stays."""
    cpu = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(cpu, None)


def _tensors(nodes: list[Any]) -> Tensors:
    return {node.name: (_DTYPES.get(node.type, node.type), tuple(node.shape)) for node in nodes}


_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(float16)": "float16"}
