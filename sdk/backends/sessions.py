"""What the backends share that run a bundle's ONNX files themselves: one session per engine, on this CPU.

A session is whatever runs one engine by a call. They run one after the other on the caller's thread, so each
has one thread, or all CPUs where a trial at load shows that its engine gains by them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Generic, Protocol, TypeVar

import numpy as np

from sdk.backends.interface import Float, Inference, checked
from sdk.bundle import Bundle, Engine, Precision
from sdk.choices import GraphKind
from sdk.draw import Draw, encode_subset
from sdk.errors import BackendError
from sdk.host.cpus import available_cpus

SLOW_MS = 0.5  # a faster engine is not tried with more threads: handing work over takes a part of that
GAIN = 0.85  # of the time on one thread that more threads have to come down to

Feeds = Mapping[str, np.ndarray]
Tensor = tuple[str, tuple[int, ...]]  #: dtype and shape
Tensors = dict[str, Tensor]  #: by name


@dataclass(frozen=True)
class EngineFile:
    """An engine's file, and what the bundle says of its tensors.

    ``path`` is for messages. What runs are the bytes that ``content`` reads and verifies to have ``sha256``.
    """

    engine: Engine
    path: Path
    sha256: str
    content: Callable[[], bytes]
    is_quantized: bool
    is_for_cpu: bool
    inputs: Tensors
    outputs: Tensors  #: just one

    @property
    def where(self) -> str:
        return f"engine {self.engine.id} ({self.path})"

    def check(self, inputs: Tensors, outputs: Tensors) -> None:
        """Refuse a file with other tensors than the bundle says.

        Raises:
            BackendError: names both.
        """
        for what, expected, got in (("inputs", self.inputs, inputs), ("outputs", self.outputs, outputs)):
            if got != expected:
                raise BackendError(
                    f"{self.where}: expected {what} {listed(expected)}, got {listed(got)}",
                    hint="export the bundle again",
                )

    def sample(self) -> Feeds:
        """Some values of all inputs, to try the engine with."""
        values = {"image": np.full(self.inputs["image"][1], 0.5, np.float32)}
        return values | {
            spec.name: encode_subset(spec, np.arange(spec.take)) for spec in self.engine.random_inputs
        }

    def cannot_load(self, runtime: str, error: Exception) -> BackendError:
        return BackendError(
            f"{self.where}: {runtime} can't load it: {one_line(error)}", hint="export the bundle again"
        )

    def failed(self, why: str) -> BackendError:
        return BackendError(f"{self.where}: failed while running: {why}")


class Session(Protocol):
    """One engine, loaded."""

    def run(self, feeds: Feeds) -> Float:
        """Its output for all its inputs by name; a new array.

        Raises:
            BackendError: names the engine.
        """
        ...


S = TypeVar("S", bound=Session)


class SessionBackend(ABC, Generic[S]):
    """A bundle's engines as sessions.

    Args:
        bundle: a verified bundle.
        precision: "fp32", "fp16" or "int8"; every engine must have it.
        threads: of every session; None takes one, or, if ``may_grow``, all that the process may use, for the
            purifiers and for the classifiers if they are measured to speed up the first of them. The
            attribute is the most that any session has.
        graphs: the kind of ONNX graph to run where the bundle has one for GPUs and one for CPUs.

    Raises:
        BackendError: an engine can't be loaded, doesn't run, or has other inputs or outputs than the bundle
            says.
    """

    name: str
    version: str
    concurrent = False

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision,
        threads: int | None,
        *,
        may_grow: bool = True,
        graphs: GraphKind = "cpu",
    ) -> None:
        self.precision: Precision = precision
        self.threads = self._given_threads = threads or 1
        self._most_threads = available_cpus() if threads is None and may_grow else self.threads
        self._bundle = bundle
        self.graphs: GraphKind = graphs
        self._closed = False
        self._narrow = _Narrow(lambda file: self._open(file, self._given_threads))
        manifest = bundle.manifest
        image: Tensor = ("float32", (1, 3, manifest.image.height, manifest.image.width))
        logits: Tensor = ("float32", (1, len(bundle.labels)))
        self._purifiers = self._opened(
            [self._file(e, image, {"purified": image}) for e in manifest.purifiers]
        )
        self._classifiers = self._opened(
            [self._file(e, image, {"logits": logits}) for e in manifest.classifiers]
        )

    def run(self, draw: Draw, image: Float, *, want_purified: bool) -> Inference:
        start = perf_counter()
        purified = self.purify(draw.purifier, image, draw.random_inputs)
        checked(purified, image.shape, draw.purifier_id)
        middle = perf_counter()
        logits = self.classify(draw.classifier, purified)
        end = perf_counter()
        return Inference(logits, purified if want_purified else None, middle - start, end - middle)

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        self._check_open()
        with self._narrow.chosen(self._purifiers[purifier]) as session:
            return session.run({"image": image, **random_inputs})

    def classify(self, classifier: int, image: Float) -> Float:
        self._check_open()
        with self._narrow.chosen(self._classifiers[classifier]) as session:
            return session.run({"image": image})

    def close(self) -> None:
        """Release the engines; closing twice is harmless."""
        self._closed = True
        self._purifiers = self._classifiers = ()
        self._narrow.forget()

    @abstractmethod
    def _open(self, file: EngineFile, threads: int) -> S:
        """A session of ``file``, its tensors checked."""

    def _opened(self, files: Sequence[EngineFile]) -> tuple[S, ...]:
        """A session of each, seen to run, and all with as many threads as suit the first.

        A number for each engine would tell by the latency which one was drawn.
        """
        first, threads = self._fastest(files[0])
        rest = [self._open(file, threads) for file in files[1:]]
        for session, file in zip(rest, files[1:], strict=True):
            session.run(file.sample())
        opened = (first, *rest)
        if threads > self._given_threads:
            self.threads = threads
            for session, file in zip(opened, files, strict=True):
                self._narrow.note(session, file)
        return opened

    def _fastest(self, file: EngineFile) -> tuple[S, int]:
        """A session that was seen to run, with the number of threads that suits its engine."""
        session = self._open(file, self._given_threads)
        alone_ms = _run_ms(session, file)
        if self._most_threads > self._given_threads and alone_ms > SLOW_MS:
            wider = self._open(file, self._most_threads)
            if _run_ms(wider, file) < GAIN * alone_ms:
                return wider, self._most_threads
        return session, self._given_threads

    def _file(self, engine: Engine, image: Tensor, outputs: Tensors) -> EngineFile:
        inputs = {"image": image} | {spec.name: (spec.dtype, spec.shape) for spec in engine.random_inputs}
        file = engine.graph(self.precision, self.graphs)
        return EngineFile(
            engine,
            self._bundle.path(file),
            file.sha256,
            content=partial(self._bundle.read, file),
            is_quantized=self.precision == "int8" and file != engine.onnx["fp32"],
            is_for_cpu=file == engine.cpu.get(self.precision),
            inputs=inputs,
            outputs=outputs,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(f"backend {self.name}: it is closed", hint="load it again")


class _Narrow(Generic[S]):
    """Sessions of one thread for engines whose own have several, for when several run at once.

    Two runs of two threads each on two cores take as long as one after the other. Most programs never run two
    at once, so such a session is opened when it is first wanted.

    Args:
        open_narrow: opens a session of one thread.
    """

    def __init__(self, open_narrow: Callable[[EngineFile], S]) -> None:
        self._open = open_narrow
        self._files: dict[int, EngineFile] = {}  # by id of the wide session, which outlives this
        self._sessions: dict[int, S] = {}
        self._n_running = 0
        self._lock = Lock()

    def note(self, wide: S, file: EngineFile) -> None:
        self._files[id(wide)] = file

    @contextmanager
    def chosen(self, session: S) -> Iterator[S]:
        """``session`` where it runs alone, or else one of one thread."""
        with self._lock:
            self._n_running += 1
            if self._n_running > 1 and (file := self._files.get(id(session))) is not None:
                if id(session) not in self._sessions:
                    self._sessions[id(session)] = self._open(file)
                session = self._sessions[id(session)]
        try:
            yield session
        finally:
            with self._lock:
                self._n_running -= 1

    def forget(self) -> None:
        self._files.clear()
        self._sessions.clear()


def listed(tensors: Tensors) -> str:
    """Names, dtypes and shapes, for an error's text."""
    return ", ".join(f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in sorted(tensors.items()))


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _run_ms(session: Session, file: EngineFile) -> float:
    """The shortest of three runs, in ms."""
    feeds = file.sample()
    times_ms: list[float] = []
    for _ in range(3):
        start = perf_counter()
        session.run(feeds)
        times_ms.append((perf_counter() - start) * 1e3)
    return min(times_ms)
