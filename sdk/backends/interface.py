"""Interface of an inference backend: load the engines once, then run a purifier and a classifier per draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sdk.choices import GraphKind, Precision
from sdk.choices import OnnxBackend as OnnxBackend
from sdk.draw import Draw
from sdk.errors import BackendError

Float = npt.NDArray[np.float32]


class Inference(NamedTuple):
    """What a draw's two engines made of one image.

    Attributes:
        logits: float32 ``(1, n_classes)``.
        purified: float32 ``(1, 3, H, W)`` in [0, 1]; None unless it was asked for.
        purify_s, classify_s: seconds in each engine, as near as the runtime can tell them apart.
    """

    logits: Float
    purified: Float | None
    purify_s: float
    classify_s: float


class Backend(Protocol):
    """A bundle's engines, loaded for one runtime and precision.

    ``image`` is float32 ``(1, 3, H, W)``, RGB in [0, 1]; ``logits`` is float32 ``(1, n_classes)``.
    The arrays returned may be reused by the next call: copy what must live longer.
    Every failure while running is a ``BackendError`` that names the engine.
    """

    name: str  #: "onnxruntime", "openvino", "tensorrt" or "tensorrt-rtx"
    version: str
    precision: Precision
    graphs: GraphKind  #: which of an engine's ONNX graphs it runs, where there are two
    concurrent: bool  #: whether several threads may call ``run`` at once

    def run(self, draw: Draw, image: Float, *, want_purified: bool) -> Inference:
        """Run a whole draw, the purifier into the classifier, wherever the runtime does that best.

        ``want_purified`` is False where nobody will look at the purified image, which then need not leave
        the device. One that is on the host is held to ``checked``; where it isn't, only the logits are.
        """
        ...

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        """Run one purifier; returns the purified image, ``(1, 3, H, W)`` in [0, 1]."""
        ...

    def classify(self, classifier: int, image: Float) -> Float:
        """Run one classifier; returns its logits, ``(1, n_classes)``."""
        ...

    def close(self) -> None:
        """Release the engines; the backend can't be used after."""
        ...


@runtime_checkable
class RunsVotes(Protocol):
    """A backend that runs several draws on one image for less than it runs them one after the other."""

    def run_votes(self, draws: Sequence[Draw], image: Float, *, want_purified: bool) -> list[Inference]:
        """``Backend.run`` for each draw; with ``want_purified``, the first one's purified image."""
        ...


@runtime_checkable
class RunsBatches(Protocol):
    """A backend that may have engines for several images at a time."""

    batch_size: int  #: how many; 1 where it has no such engines

    def run_batch(self, draws: Sequence[Draw], images: Float, *, want_purified: bool) -> list[Inference]:
        """``Backend.run`` for each draw and its image, ``(N, 3, H, W)``; those that drew alike share runs."""
        ...


def checked(output: Float, shape: tuple[int, ...], engine_id: str) -> Float:
    """``output``, if it is what a sound engine gives; an attacker may have found an input that breaks it."""
    if output.shape != shape:
        raise BackendError(
            f"engine {engine_id}: expected an output of shape {list(shape)}, got {list(output.shape)}",
            hint="export the bundle again",
        )
    if not np.isfinite(output).all():
        raise BackendError(
            f"engine {engine_id}: NaN or infinite values in its output, so the frame gets no label"
        )
    return output
