"""What a TensorRT backend holds on the GPU: engines, buffers and CUDA graphs, used on one thread.

*Not executed on a GPU*: its calls are tested against strict fakes, see ``sdk.backends.tensorrt``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import pairwise

import numpy as np

from sdk.backends.cuda import Array, Driver
from sdk.backends.engine_set import EngineSet, Pass, by_row, find_batch, shared_runs
from sdk.backends.interface import Float, Inference
from sdk.backends.plan_store import BuiltEngine, EngineBackend, Host, build_command, find_engine
from sdk.backends.runtime_cache import RuntimeCache, runtime_cache
from sdk.backends.tensorrt_engine import Buffer, Library, LoadedEngine
from sdk.bundle import Bundle, Precision
from sdk.draw import Draw, encode_subset
from sdk.errors import BackendError
from sdk.host.hardware import jetson_model

AUTO_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")  # the first that is built; int8 only if asked for
MIN_SCRATCH_BYTES = 256  # CUDA refuses to allocate nothing

_log = logging.getLogger("sdk")


class Bank:
    """All that lives on the GPU; made, used and closed on one thread.

    What was acquired is released in reverse order: contexts, runtime cache, scratch, engines, buffers, the
    runtime, events, the stream, and at last the GPU's primary context.
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
        self._recorded: list[int] = []  # events, as many as the most votes took
        self._hosts: dict[tuple[int, int], Array] = {}  # of votes after the first, by the buffer's address
        self._graphs: dict[LoadedEngine, int] = {}
        held.callback(driver.close)
        try:
            gpu = driver.gpu
            host = Host(
                name, library.version, gpu.name, gpu.compute_capability, jetson_model(), gpu.multiprocessors
            )
            self.precision, built = _find_engines(bundle, precision, host)
            self._stream = driver.create_stream()
            held.callback(driver.destroy_stream, self._stream)
            self._events(3)
            library.open()
            held.callback(library.close)
            several = find_batch(bundle, self.precision, host)
            sets = [(1, built)] if several is None else [(1, built), several]
            rebuild = build_command(bundle, name, self.precision)
            self._sets = [
                EngineSet(bundle, library, self._buffer, held, built=plans, rebuild=rebuild, batch=batch)
                for batch, plans in sets
            ]
            self._one, self._several = self._sets[0], self._sets[-1]
            cache = _runtime_cache(
                bundle, host, library, [plan for _, plans in sets for plan in plans.values()]
            )
            self._bind(held, cache)
            for each in self._sets:
                self._warm_up(bundle, each)
            self._capture(held)
            if cache is not None:
                cache.keep()
        except BaseException:
            with suppress(BackendError):  # after a fault, every call fails; the first error says why
                held.close()
            raise

    def run_votes(self, draws: Sequence[Draw], image: Float, want_purified: bool) -> list[Inference]:
        """The chain, once a draw: the image goes up once, and the first purified image alone comes down."""
        passes = []
        for vote, draw in enumerate(draws):
            one = self._one
            purifier, classifier = one.purifiers[draw.purifier], one.classifiers[draw.classifier]
            feeds = self._feeds(purifier, {"image": image, **draw.random_inputs})
            if vote:
                feeds = [(buffer, array) for buffer, array in feeds if buffer is not one.image]
            wanted = [one.purified, one.logits] if want_purified and not vote else [one.logits]
            passes.append(Pass([purifier, classifier], feeds, wanted))
        return [
            Inference(outputs[-1], outputs[0] if len(outputs) > 1 else None, *times_s)
            for outputs, times_s in self._chain(passes)
        ]

    @property
    def batch_size(self) -> int:
        """How many images the largest engines take at a time."""
        return self._several.batch

    def run_batch(self, draws: Sequence[Draw], images: Float, want_purified: bool) -> list[Inference]:
        """Each image under its draw; those that drew the same purifier share its run, and upload.

        Of each classifier that one of them drew there is a run over all, of which the others' rows are left.
        """
        passes: list[Pass] = []
        members: list[tuple[list[int], list[int]]] = []  # of each pass: the purifier's rows, the classifier's
        for rows in shared_runs([draw.purifier for draw in draws], self._several.batch):
            engines = self._one if len(rows) == 1 else self._several
            purifier = engines.purifiers[draws[rows[0]].purifier]
            padded = [*rows, *rows[-1:] * (engines.batch - len(rows))]
            random_inputs = {
                name: np.concatenate([draws[row].random_inputs[name] for row in padded])
                for name in draws[rows[0]].random_inputs
            }
            feeds = self._feeds(purifier, {"image": images[padded], **random_inputs})
            for j in dict.fromkeys(draws[row].classifier for row in rows):
                classifier, is_first = engines.classifiers[j], bool(feeds)
                wanted = (
                    [engines.purified, engines.logits] if want_purified and is_first else [engines.logits]
                )
                chain = [purifier, classifier] if is_first else [classifier]
                passes.append(Pass(chain, feeds, wanted))
                members.append((rows, [row for row in rows if draws[row].classifier == j]))
                feeds = []
        return by_row(self._chain(passes), passes, members, len(draws))

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        engine = self._one.purifiers[purifier]
        feeds = self._feeds(engine, {"image": image, **random_inputs})
        return self._chain([Pass([engine], feeds, [self._one.purified])])[0][0][0]

    def classify(self, classifier: int, image: Float) -> Float:
        engine = self._one.classifiers[classifier]
        feeds = self._feeds(engine, {"image": image})
        return self._chain([Pass([engine], feeds, [self._one.logits])])[0][0][0]

    def close(self) -> None:
        self._held.close()

    def _bind(self, held: ExitStack, cache: RuntimeCache | None) -> None:
        engines = [engine for each in self._sets for engine in each.engines]
        size_bytes = max(MIN_SCRATCH_BYTES, *(engine.scratch_bytes for engine in engines))
        scratch = self._driver.allocate(size_bytes)
        held.callback(self._driver.free, scratch)
        if cache is not None:
            held.callback(cache.close)
        for engine in engines:
            held.callback(engine.unbind)
            engine.bind(scratch, size_bytes, cache)

    def _warm_up(self, bundle: Bundle, engines: EngineSet) -> None:
        """Run every engine once: to prove that it runs, and because the first run loads its kernels."""
        image = np.full(engines.image.shape, 0.5, np.float32)
        for loaded, engine in zip(engines.purifiers, bundle.manifest.purifiers, strict=True):
            random_inputs = {
                spec.name: np.repeat(encode_subset(spec, np.arange(spec.take)), engines.batch, axis=0)
                for spec in engine.random_inputs
            }
            feeds = self._feeds(loaded, {"image": image, **random_inputs})
            self._chain([Pass([loaded], feeds, [engines.purified])])
        for loaded in engines.classifiers:
            self._chain([Pass([loaded], self._feeds(loaded, {"image": image}), [engines.logits])])

    def _capture(self, held: ExitStack) -> None:
        """Make each engine's CUDA graph: a launch costs less of the CPU than an enqueue, which bounds so
        small networks. An engine that can't be captured is enqueued."""
        for engine in (engine for each in self._sets for engine in each.engines):
            graph = self._driver.capture(self._stream, partial(engine.enqueue, self._stream))
            if graph is None:
                _log.debug("engine %s: runs without a CUDA graph", engine.id)
                continue
            held.callback(self._driver.destroy_graph, graph)
            self._graphs[engine] = graph

    def _enqueue(self, engine: LoadedEngine) -> None:
        if engine in self._graphs:
            self._driver.launch(self._graphs[engine], self._stream)
        else:
            engine.enqueue(self._stream)

    def _chain(self, passes: Sequence[Pass]) -> list[tuple[list[Array], list[float]]]:
        """Feed each pass, run its engines one into the next, and fetch; wait once, for all.

        Returns, for each pass, copies of what it wants and the seconds of each engine, its uploads included.
        """
        driver, stream = self._driver, self._stream
        events = self._events(1 + sum(len(one.engines) for one in passes))
        ends = iter(events[1:])
        try:
            try:
                driver.record(events[0], stream)
                for vote, one in enumerate(passes):
                    for buffer, array in one.feeds:
                        host = self._host(vote, buffer)
                        np.copyto(host, array)
                        driver.copy_to_device(buffer.address, host, stream)
                    for engine in one.engines:
                        self._enqueue(engine)
                        driver.record(next(ends), stream)
                    for buffer in one.wanted:
                        driver.copy_to_host(self._host(vote, buffer), buffer.address, stream)
            except BaseException:
                with suppress(BackendError):  # the first error says why
                    driver.synchronize(stream)  # a copy under way must find its buffer as it was
                raise
            driver.synchronize(stream)
            times_s = iter([driver.elapsed_ms(*pair) / 1e3 for pair in pairwise(events)])
        except BackendError as error:
            ids = dict.fromkeys(engine.id for one in passes for engine in one.engines)
            raise BackendError(f"engine {' and '.join(ids)}: failed while running: {error}") from error
        return [
            (
                [self._host(vote, buffer).copy() for buffer in one.wanted],
                [next(times_s) for _ in one.engines],
            )
            for vote, one in enumerate(passes)
        ]

    def _host(self, vote: int, buffer: Buffer) -> Array:
        """The page-locked array of a vote: each has its own, since all copies are under way at once."""
        if vote == 0:
            return buffer.host
        if (vote, buffer.address) not in self._hosts:
            host = self._driver.allocate_host(buffer.shape, buffer.dtype)
            self._held.callback(self._driver.free_host, host)
            self._hosts[vote, buffer.address] = host
        return self._hosts[vote, buffer.address]

    def _events(self, count: int) -> list[int]:
        while len(self._recorded) < count:
            event = self._driver.create_event()
            self._held.callback(self._driver.destroy_event, event)
            self._recorded.append(event)
        return self._recorded[:count]

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

    def _buffer(self, dtype: str, shape: tuple[int, ...]) -> Buffer:
        host = self._driver.allocate_host(shape, dtype)
        self._held.callback(self._driver.free_host, host)
        address = self._driver.allocate(host.nbytes)
        self._held.callback(self._driver.free, address)
        return Buffer(dtype, shape, address, host)


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


def _runtime_cache(
    bundle: Bundle, host: Host, library: Library, built: Sequence[BuiltEngine]
) -> RuntimeCache | None:
    """Where the library compiles kernels on this device, their cache; None where its builder did."""
    if host.backend != "tensorrt-rtx" or not hasattr(library.module, "IRuntimeCache"):
        return None
    return runtime_cache(bundle, host, (engine.sidecar.plan_sha256 for engine in built))


def _listed(signature: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {what}" for name, what in sorted(signature.items()))
