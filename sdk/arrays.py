"""Array types that every stage of the runtime shares.

def crop(frame: Pixels) -> Pixels: ...
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""A frame or picture, ``(H, W, 3)`` uint8, BGR in [0, 255] unless stated otherwise."""

FloatImage = npt.NDArray[np.float32]
"""Float32 data of engines: an image ``(1, 3, H, W)`` RGB in [0, 1], logits or probabilities."""
