"""TensorRT 10 and 11, and TensorRT-RTX: the purifier hands its image to the classifier on the device.

One thread, of the backend's own, does all GPU work: calls from any other are handed over to it and waited
for. It owns one stream, one context per engine, page-locked buffers for what goes in and out, and one
scratch buffer as large as the hungriest engine needs, since engines run one after the other. Every address
is set once, at load. A frame uploads its image once and waits once, however many votes it takes; between lie,
for each vote, the copies of its random inputs and logits and the launch of two CUDA graphs, one an engine,
made at load (with pycuda, which has no graphs, two enqueues).

*Not executed on a GPU*: its calls are tested against strict fakes whose every method is held to the real
classes of ``tensorrt_rtx``; ``make test-gpu`` runs them on a GPU.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from sdk.backends.cuda import Driver, open_driver
from sdk.backends.gpu_thread import GpuThread
from sdk.backends.interface import Float, Inference, checked
from sdk.backends.plan_store import EngineBackend
from sdk.backends.tensorrt_bank import Bank
from sdk.backends.tensorrt_engine import Library, import_library
from sdk.bundle import Bundle, Precision
from sdk.choices import GraphKind
from sdk.draw import Draw
from sdk.errors import BackendError

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

        def load() -> Bank:
            held.bank = Bank(bundle, name, precision, library, open_driver)
            return held.bank

        try:
            bank = self._hand_over(load)
        except BaseException:
            self.close()
            raise
        self.precision: Precision = bank.precision
        self.batch_size = bank.batch_size

    def run(self, draw: Draw, image: Float, *, want_purified: bool) -> Inference:
        return self.run_votes([draw], image, want_purified=want_purified)[0]

    def run_votes(self, draws: Sequence[Draw], image: Float, *, want_purified: bool) -> list[Inference]:
        held = self._held
        found = self._hand_over(lambda: held.loaded().run_votes(draws, image, want_purified))
        if found[0].purified is not None:
            checked(found[0].purified, image.shape, draws[0].purifier_id)
        return found

    def run_batch(self, draws: Sequence[Draw], images: Float, *, want_purified: bool) -> list[Inference]:
        held = self._held
        found = self._hand_over(lambda: held.loaded().run_batch(draws, images, want_purified))
        for draw, one in zip(draws, found, strict=True):
            if one.purified is not None:
                checked(one.purified, (1, *images.shape[1:]), draw.purifier_id)
        return found

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

    bank: Bank | None = None

    def loaded(self) -> Bank:
        assert self.bank is not None, "set by load, which raised otherwise"
        return self.bank

    def release(self) -> None:
        bank, self.bank = self.bank, None
        if bank is not None:
            bank.close()
