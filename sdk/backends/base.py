"""The seam every inference backend fills: open a bundle's engines once, then run two of them a draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sdk.bundle import Precision

Float = npt.NDArray[np.float32]


class Backend(Protocol):
    """A bundle's engines, loaded for one runtime and precision.

    ``image`` is float32 ``(1, 3, H, W)``, RGB in [0, 1]; ``logits`` is float32 ``(1, n_classes)``.
    The arrays returned may be reused by the next call: copy what must live longer.
    Every failure while running is a ``BackendError`` that names the engine.
    """

    name: str  #: "onnxruntime", "tensorrt" or "tensorrt-rtx"
    version: str
    precision: Precision

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        """Run one purifier; returns the purified image, ``(1, 3, H, W)`` in [0, 1]."""
        ...

    def classify(self, classifier: int, image: Float) -> Float:
        """Run one classifier; returns its logits, ``(1, n_classes)``."""
        ...

    def close(self) -> None:
        """Release the engines; the backend can't be used after."""
        ...
