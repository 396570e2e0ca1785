"""ONNX Runtime on the CPU: one session per engine, sharing the processor without spinning against each other.

Why it is set up so, measured on two busy cores with a purifier of 0.17 ms and a classifier of 1.6 ms:

* Drawing among sessions of two spinning threads each takes 15 ms a frame, without spinning 2.0 ms, and with
  one thread 1.9 ms.  So a session starts with one thread, and gets all CPUs only if an engine is slow
  enough to gain.
* I/O binding saves 5 of a run's 170 microseconds and would tie the outputs to one buffer: plain ``run``
  stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np

from sdk.backends.base import Float, Inference, checked
from sdk.bundle import Bundle, Engine, Precision
from sdk.cpus import available_cpus
from sdk.draw import Draw, encode_subset
from sdk.errors import BackendError

try:
    import onnxruntime
except ImportError as error:
    raise BackendError(f"backend onnxruntime: can't be imported ({error}); pip install onnxruntime") from None

SLOW_MS = 5.0  # handing work to a second thread gained nothing at 1.6 ms

Feeds = dict[str, np.ndarray]


class OnnxRuntimeBackend:
    """A bundle's engines as ONNX Runtime sessions on the CPU.

    Args:
        bundle: a verified bundle.
        precision: "fp32", "fp16" or "int8"; every engine must have it.
        threads: per session; None takes one, or all that the process may use if an engine needs over
            ``SLOW_MS``.

    Raises:
        BackendError: an engine can't be loaded, doesn't run, or has other inputs or outputs than the bundle
            says.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, precision: Precision = "fp32", threads: int | None = None) -> None:
        self.version: str = onnxruntime.__version__
        self.precision: Precision = precision
        self.threads = threads or 1
        self._bundle = bundle
        self._purifiers: tuple[_Session, ...] = ()
        self._classifiers: tuple[_Session, ...] = ()
        self._load()
        slowest_ms = self._warm_up()
        cpus = available_cpus()
        if threads is None and slowest_ms > SLOW_MS and cpus > 1:
            self.threads = cpus
            self._load()
            self._warm_up()

    def run(self, draw: Draw, image: Float, *, want_purified: bool) -> Inference:
        start = perf_counter()
        purified = self.purify(draw.purifier, image, draw.random_inputs)
        checked(purified, image.shape, draw.purifier_id)
        middle = perf_counter()
        logits = self.classify(draw.classifier, purified)
        end = perf_counter()
        return Inference(logits, purified if want_purified else None, middle - start, end - middle)

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        return self._purifiers[purifier].run({"image": image, **random_inputs})

    def classify(self, classifier: int, image: Float) -> Float:
        return self._classifiers[classifier].run({"image": image})

    def close(self) -> None:
        self._purifiers = self._classifiers = ()

    def bare_sessions(self) -> tuple[list[Any], list[Any]]:
        """The ``InferenceSession`` of every purifier and every classifier, to measure them by themselves."""
        return [session.bare for session in self._purifiers], [session.bare for session in self._classifiers]

    def _load(self) -> None:
        manifest = self._bundle.manifest
        image = (1, 3, manifest.image.height, manifest.image.width)
        logits = (1, len(self._bundle.labels))
        self._purifiers = tuple(
            self._session(engine, image, "purified", image) for engine in manifest.purifiers
        )
        self._classifiers = tuple(
            self._session(engine, image, "logits", logits) for engine in manifest.classifiers
        )

    def _session(
        self, engine: Engine, image: tuple[int, ...], output: str, output_shape: tuple[int, ...]
    ) -> _Session:
        path = self._bundle.path(engine.onnx[self.precision])
        return _Session(
            engine, str(path), image, output, output_shape, _options(self.precision, self.threads)
        )

    def _warm_up(self) -> float:
        """Run every engine, once to prove that it runs and once more for time; the slowest, in ms."""
        sessions = (*self._purifiers, *self._classifiers)
        return max(min(session.timed_run_ms() for _ in range(2)) for session in sessions)


class _Session:
    """One engine's session; its errors name the engine."""

    def __init__(
        self,
        engine: Engine,
        path: str,
        image: tuple[int, ...],
        output: str,
        output_shape: tuple[int, ...],
        options: Any,
    ) -> None:
        self.engine = engine
        self._where = f"engine {engine.id} ({path})"
        try:
            self.bare = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own error classes share no narrower base
            raise BackendError(
                f"{self._where}: ONNX Runtime can't load it: {_one_line(error)}; export the bundle anew"
            ) from error
        inputs = {"image": ("float32", image)} | {r.name: (r.dtype, r.shape) for r in engine.random_inputs}
        self._check("inputs", self.bare.get_inputs(), inputs)
        self._check("outputs", self.bare.get_outputs(), {output: ("float32", output_shape)})
        self._sample = {"image": np.full(image, 0.5, np.float32)} | {
            spec.name: encode_subset(spec, np.arange(spec.take)) for spec in engine.random_inputs
        }

    def run(self, feeds: Feeds) -> Float:
        try:
            output: Float = self.bare.run(None, feeds)[0]
        except Exception as error:
            raise BackendError(f"{self._where}: failed while running: {_one_line(error)}") from error
        return output

    def timed_run_ms(self) -> float:
        start = perf_counter()
        self.run(self._sample)
        return (perf_counter() - start) * 1e3

    def _check(self, what: str, found: list[Any], expected: dict[str, tuple[str, tuple[int, ...]]]) -> None:
        got = {node.name: (_DTYPES.get(node.type, node.type), tuple(node.shape)) for node in found}
        if got != expected:
            raise BackendError(
                f"{self._where}: expected {what} {_listed(expected)}, got {_listed(got)}; "
                "export the bundle anew"
            )


def _options(precision: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # failures come as exceptions; the log would only repeat them
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if (
        precision == "int8"
    ):  # the fused 8-bit kernels saturate on CPUs without VNNI; unfused Q/DQ is exact everywhere
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(float16)": "float16"}


def _listed(signature: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in sorted(signature.items()))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
