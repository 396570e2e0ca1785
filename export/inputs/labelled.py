"""Images with their labels, which accuracy is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdk.backends.interface import Float


@dataclass(frozen=True)
class Labelled:
    """Images that accuracy is measured on: float32 (N, 3, H, W) in [0, 1], with labels int64 (N,).

    ``says`` names them: "clean", or the attack that made them.
    """

    says: str
    images: Float
    labels: npt.NDArray[np.int64]
