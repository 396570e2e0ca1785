"""TensorRT 10 and 11, and TensorRT-RTX: the purifier hands its image to the classifier on the device.

One thread, of the backend's own, does all GPU work: calls from any other are handed over to it and waited
for.  It owns one stream, one context per engine, page-locked buffers for what goes in and out, and one
scratch buffer as large as the hungriest engine needs, since engines run one after the other.  Every address
is set once, at load; a frame is copies, two enqueues and one wait.

*Not executed on a GPU*: its calls are tested against strict fakes whose every method is held to the real
classes of ``tensorrt_rtx``; ``make test-gpu`` is ready for whoever has one.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

import numpy as np

from sdk.backends.cuda import Array, Driver, open_driver
from sdk.backends.gpu_thread import GpuThread
from sdk.backends.interface import Float, Inference, checked
from sdk.backends.plan_store import BuiltEngine, EngineBackend, Host, build_command, find_engine
from sdk.backends.tensorrt_engine import Buffer, Library, LoadedEngine, import_library
from sdk.bundle import Bundle, Precision, RandomInput
from sdk.choices import GraphKind
from sdk.draw import Draw, encode_subset
from sdk.errors import BackendError
from sdk.host.hardware import jetson_model

AUTO_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")  # the first that is built; int8 only if asked for
MIN_SCRATCH_BYTES = 256  # CUDA refuses to allocate nothing

T = TypeVar("T")


class TensorRtBackend:
    """A bundle's engines in TensorRT, on a GPU thread of their own.

    Args:
        bundle: a verified bundle whose engines were built for this host by ``edge-export engines``.
        name: "tensorrt" or "tensorrt-rtx".
        precision: "fp32", "fp16" or "int8"; None takes the first of ``AUTO_PRECISIONS`` that is built.
        module: the TensorRT module; None imports the one that ``name`` says.
        open_driver: opens the GPU; called on the GPU thread.

    Raises:
        BackendError: TensorRT, the GPU or an engine is absent, of another version, or can't be loaded; all
            that was allocated until then is released.
    """

    concurrent = False  # all GPU work stays on one thread

    def __init__(
        self,
        bundle: Bundle,
        name: EngineBackend = "tensorrt",
        precision: Precision | None = None,
        *,
        module: Any = None,
        open_driver: Callable[[], Driver] = open_driver,
    ) -> None:
        library = Library(import_library(name) if module is None else module, name)
        self.name: str = name
        self.graphs: GraphKind = "gpu"
        self.version = library.version
        self._closed = False
        self._held = held = _Held()  # apart from self, so that the GPU thread can outlive it
        self._gpu_thread = GpuThread(held.release)
        weakref.finalize(self, self._gpu_thread.close, wait=False).atexit = False  # the thread has its own

        def load() -> Precision:
            held.bank = _Bank(bundle, name, precision, library, open_driver)
            return held.bank.precision

        try:
            self.precision: Precision = self._hand_over(load)
        except BaseException:
            self.close()
            raise

    def run(self, draw: Draw, image: Float, *, want_purified: bool) -> Inference:
        held = self._held
        inference = self._hand_over(lambda: held.loaded().run(draw, image, want_purified))
        if inference.purified is not None:
            checked(inference.purified, image.shape, draw.purifier_id)
        return inference

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        held = self._held
        return self._hand_over(lambda: held.loaded().purify(purifier, image, random_inputs))

    def classify(self, classifier: int, image: Float) -> Float:
        held = self._held
        return self._hand_over(lambda: held.loaded().classify(classifier, image))

    def close(self) -> None:
        """Release contexts, engines, memory and the GPU, in that order; closing twice is harmless.

        A backend that is forgotten, or alive at the end of the process, is released likewise.
        """
        if not self._closed and os.getpid() == self._gpu_thread.process:
            self._closed = True
            self._gpu_thread.close()

    def _hand_over(self, work: Callable[[], T]) -> T:
        """Do ``work`` on the GPU thread, and wait for it."""
        if os.getpid() != self._gpu_thread.process:
            raise BackendError(
                f"backend {self.name}: loaded before a fork, over which no GPU context lives",
                hint="load the Purifier in the process that uses it",
            )
        if self._closed:
            raise BackendError(f"backend {self.name}: it is closed", hint="load it again")
        return self._gpu_thread.call(work)


class _Held:
    """What a backend's GPU thread holds for it."""

    bank: _Bank | None = None

    def loaded(self) -> _Bank:
        assert self.bank is not None, "set by load, which raised otherwise"
        return self.bank

    def release(self) -> None:
        bank, self.bank = self.bank, None
        if bank is not None:
            bank.close()


class _Bank:
    """All that lives on the GPU; made, used and closed on one thread.

    What was acquired is released in reverse order: contexts, scratch, engines, buffers, the runtime, events,
    the stream, and at last the GPU's primary context.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: EngineBackend,
        precision: Precision | None,
        library: Library,
        open_driver: Callable[[], Driver],
    ) -> None:
        try:
            self._driver = driver = open_driver()
        except BackendError as error:
            raise BackendError(f"backend {name}: {error}") from None
        self._held = held = ExitStack()
        held.callback(driver.close)
        try:
            gpu = driver.gpu
            host = Host(name, library.version, gpu.name, gpu.compute_capability, jetson_model())
            self.precision, built = _find_engines(bundle, precision, host)
            self._stream = driver.create_stream()
            held.callback(driver.destroy_stream, self._stream)
            self._events = [self._event(held) for _ in range(3)]
            library.open()
            held.callback(library.close)
            self._load(bundle, library, built, build_command(bundle, name, self.precision), held)
            self._bind(held)
            self._warm_up(bundle)
        except BaseException:
            with suppress(BackendError):  # after a fault, every call fails; the first error says why
                held.close()
            raise

    def run(self, draw: Draw, image: Float, want_purified: bool) -> Inference:
        """The chain: only image and random inputs go up, only what is wanted comes down."""
        purifier, classifier = self._purifiers[draw.purifier], self._classifiers[draw.classifier]
        feeds = self._feeds(purifier, {"image": image, **draw.random_inputs})
        wanted = [self._logits, self._purified] if want_purified else [self._logits]
        (logits, *purified), (purify_s, classify_s) = self._chain([purifier, classifier], feeds, wanted)
        return Inference(logits, purified[0] if purified else None, purify_s, classify_s)

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        engine = self._purifiers[purifier]
        feeds = self._feeds(engine, {"image": image, **random_inputs})
        return self._chain([engine], feeds, [self._purified])[0][0]

    def classify(self, classifier: int, image: Float) -> Float:
        engine = self._classifiers[classifier]
        return self._chain([engine], self._feeds(engine, {"image": image}), [self._logits])[0][0]

    def close(self) -> None:
        self._held.close()

    def _load(
        self,
        bundle: Bundle,
        library: Library,
        built: Mapping[str, BuiltEngine],
        rebuild: str,
        held: ExitStack,
    ) -> None:
        """Allocate the buffers and deserialize the engines.

        The purified image's buffer is each purifier's output and each classifier's input: that is the chain.
        """
        manifest = bundle.manifest
        shape = (1, 3, manifest.image.height, manifest.image.width)
        self._image = self._buffer("float32", shape, held)
        self._purified = self._buffer("float32", shape, held)
        self._logits = self._buffer("float32", (1, len(bundle.labels)), held)
        random_inputs: dict[RandomInput, Buffer] = {}
        for spec in {spec: None for engine in manifest.purifiers for spec in engine.random_inputs}:
            random_inputs[spec] = self._buffer(spec.dtype, spec.shape, held)

        def load(engine_id: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> LoadedEngine:
            loaded = LoadedEngine(library, built[engine_id], inputs, outputs, rebuild)
            held.callback(loaded.close)
            return loaded

        self._purifiers = [
            load(
                engine.id,
                {"image": self._image} | {spec.name: random_inputs[spec] for spec in engine.random_inputs},
                {"purified": self._purified},
            )
            for engine in manifest.purifiers
        ]
        self._classifiers = [
            load(engine.id, {"image": self._purified}, {"logits": self._logits})
            for engine in manifest.classifiers
        ]

    def _bind(self, held: ExitStack) -> None:
        engines = (*self._purifiers, *self._classifiers)
        size_bytes = max(MIN_SCRATCH_BYTES, *(engine.scratch_bytes for engine in engines))
        scratch = self._driver.allocate(size_bytes)
        held.callback(self._driver.free, scratch)
        for engine in engines:
            held.callback(engine.unbind)
            engine.bind(scratch, size_bytes)

    def _warm_up(self, bundle: Bundle) -> None:
        """Run every engine once: to prove that it runs, and because the first run loads its kernels."""
        image = np.full(self._image.shape, 0.5, np.float32)
        for index, engine in enumerate(bundle.manifest.purifiers):
            random_inputs = {
                spec.name: encode_subset(spec, np.arange(spec.take)) for spec in engine.random_inputs
            }
            self.purify(index, image, random_inputs)
        for index in range(len(self._classifiers)):
            self.classify(index, image)

    def _chain(
        self, engines: Sequence[LoadedEngine], feeds: Sequence[tuple[Buffer, Array]], wanted: Sequence[Buffer]
    ) -> tuple[list[Array], list[float]]:
        """Feed, run ``engines`` one into the next, and fetch: copies of ``wanted``, seconds per engine."""
        driver, stream = self._driver, self._stream
        start, *ends = self._events[: len(engines) + 1]
        try:
            try:
                driver.record(start, stream)
                for buffer, array in feeds:
                    np.copyto(buffer.host, array)
                    driver.copy_to_device(buffer.address, buffer.host, stream)
                for engine, end in zip(engines, ends, strict=True):
                    engine.enqueue(stream)
                    driver.record(end, stream)
                for buffer in wanted:
                    driver.copy_to_host(buffer.host, buffer.address, stream)
            except BaseException:
                with suppress(BackendError):  # the first error says why
                    driver.synchronize(stream)  # a copy under way must find its buffer as it was
                raise
            driver.synchronize(stream)
            times_ms = [driver.elapsed_ms(*pair) for pair in zip((start, *ends), ends, strict=False)]
        except BackendError as error:
            ids = " and ".join(engine.id for engine in engines)
            raise BackendError(f"engine {ids}: failed while running: {error}") from error
        return [buffer.host.copy() for buffer in wanted], [time_ms / 1e3 for time_ms in times_ms]

    def _feeds(self, engine: LoadedEngine, arrays: Mapping[str, Array]) -> list[tuple[Buffer, Array]]:
        """Each array with the buffer it goes into, once it is known to fit."""
        expected = {name: f"{buffer.dtype} {list(buffer.shape)}" for name, buffer in engine.inputs.items()}
        got = {name: f"{array.dtype} {list(array.shape)}" for name, array in arrays.items()}
        if got != expected:
            raise BackendError(
                f"engine {engine.id}: failed while running: expected inputs {_listed(expected)}, "
                f"got {_listed(got)}"
            )
        return [(engine.inputs[name], array) for name, array in arrays.items()]

    def _buffer(self, dtype: str, shape: tuple[int, ...], held: ExitStack) -> Buffer:
        host = self._driver.allocate_host(shape, dtype)
        held.callback(self._driver.free_host, host)
        address = self._driver.allocate(host.nbytes)
        held.callback(self._driver.free, address)
        return Buffer(dtype, shape, address, host)

    def _event(self, held: ExitStack) -> int:
        event = self._driver.create_event()
        held.callback(self._driver.destroy_event, event)
        return event


def _find_engines(
    bundle: Bundle, precision: Precision | None, host: Host
) -> tuple[Precision, dict[str, BuiltEngine]]:
    """The engines this host may load, by id, in the precision asked for or the first that has them all."""
    engines = bundle.manifest.engines
    candidates = (precision,) if precision else AUTO_PRECISIONS
    missing: BackendError | None = None
    for candidate in candidates:
        if all(candidate in engine.onnx for engine in engines):
            try:
                return candidate, {e.id: find_engine(bundle, e, candidate, host) for e in engines}
            except BackendError as error:
                missing = missing or error
    raise missing or BackendError(f"bundle {bundle.folder}: no {precision} engines in it")


def _listed(signature: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {what}" for name, what in sorted(signature.items()))
