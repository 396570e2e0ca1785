"""Pre-processing of a camera's frame into an engine's image: centre crop, anti-aliased resize, planar float.

Every pixel of the crop weighs in the result. Bilinear resizing alone would be faster, but it reads one
pixel in hundreds, so it aliases and hands an attacker those few pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sdk.arrays import FloatImage, Pixels
from sdk.bundle import Image
from sdk.errors import BackendError, UsageError

try:
    import cv2
except ImportError as error:
    raise BackendError(
        f"OpenCV can't be imported ({error})",
        hint="pip install 'edge-purify[opencv]', or on a Jetson apt install python3-opencv",
    ) from None

FIELD_KEPT = 7 / 8  # of each side at the least: the crop customary on ImageNet, 224 of 256 pixels


class Preprocessor:
    """Turns frames of any size into one engine's image.

    The result is float32 ``(1, 3, H, W)``, RGB in [0, 1], in a buffer that the next call overwrites.
    """

    def __init__(self, image: Image) -> None:
        self._height, self._width = image.height, image.width
        self._buffer = np.empty((1, 3, image.height, image.width), np.float32)

    def __call__(self, frame: Pixels) -> FloatImage:
        """Crop, resize and convert ``frame``, HxWx3 uint8 BGR.

        Raises:
            UsageError: the frame is not such an array.
        """
        check_frame(frame)
        pixels = resize(frame, self._height, self._width)
        planar_rgb = pixels.transpose(2, 0, 1)[::-1]
        np.multiply(planar_rgb, np.float32(1 / 255), out=self._buffer[0])
        return self._buffer


def resize(frame: Pixels, height: int, width: int) -> Pixels:
    """The centre of ``frame`` as ``(height, width, 3)`` uint8, by the cheapest route that weighs every pixel.

    * The largest centred rectangle whose sides are an even multiple of the target's, or else any integer
      multiple, if that keeps 7/8 of the field of view: OpenCV shrinks by an integer several times faster
      than by a fraction, and fastest of all by 2, so an even factor is taken in two passes, 2 first.
    * Else the largest centred rectangle of the target's shape, first shrunk by an integer factor to at
      least twice the target, then by what is left.
    * A frame smaller than the target is enlarged bilinearly.

    Each pass rounds to whole grey levels; all passes together stay within 1 of the exact mean.
    """
    return plan_resize(frame.shape[0], frame.shape[1], height, width).apply(frame)


@dataclass(frozen=True, slots=True)
class Plan:
    """Resize of frames of one size: what to cut out, and each (width, height) to resize it to."""

    rows: slice
    columns: slice
    sizes: tuple[tuple[int, int], ...]
    interpolation: int

    def apply(self, frame: Pixels) -> Pixels:
        pixels = frame[self.rows, self.columns]
        for size in self.sizes:
            pixels = cv2.resize(pixels, size, interpolation=self.interpolation)
        return pixels


@lru_cache(maxsize=64)
def plan_resize(frame_height: int, frame_width: int, height: int, width: int) -> Plan:
    """The steps of ``resize`` for frames of one size."""
    crop_height, crop_width = _largest_of_shape(frame_height, frame_width, height, width)
    largest = min(frame_height // height, frame_width // width)
    kept = min(height / crop_height, width / crop_width)  # of the field of view, by a factor of 1
    factors = [n for n in (largest // 2 * 2, largest) if n * kept >= FIELD_KEPT]
    interpolation = cv2.INTER_AREA
    if largest == 0:
        sizes: tuple[tuple[int, int], ...] = ((width, height),)
        interpolation = cv2.INTER_LINEAR
    elif factors:
        crop_height, crop_width = factors[0] * height, factors[0] * width
        sizes = _passes(height, width, factors[0])
    else:
        first = max(largest // 2, 1)
        crop_height, crop_width = crop_height // first * first, crop_width // first * first
        sizes = (*_passes(crop_height // first, crop_width // first, first), (width, height))
    top, left = (frame_height - crop_height) // 2, (frame_width - crop_width) // 2
    return Plan(slice(top, top + crop_height), slice(left, left + crop_width), sizes, interpolation)


def check_frame(frame: Any) -> None:
    """Raise a ``UsageError`` unless ``frame`` is a non-empty HxWx3 uint8 array."""
    if frame is None:
        raise UsageError(
            "frame: expected HxWx3 uint8 BGR, got None",
            hint="cv2.imread returns None for a file it can't read",
        )
    if not isinstance(frame, np.ndarray):
        raise UsageError(f"frame: expected a numpy array, HxWx3 uint8 BGR, got {type(frame).__name__}")
    hint = _hint(frame)
    if hint is not None:
        raise UsageError(
            f"frame: expected HxWx3 uint8 BGR, got {frame.dtype} of shape {frame.shape}", hint=hint
        )


def _hint(frame: np.ndarray) -> str | None:
    """What to do about a frame of the wrong kind; None if it is right."""
    if frame.ndim == 2:
        return "convert grey frames by cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"
    if frame.ndim != 3:
        return "pass one frame at a time"
    if frame.shape[2] == 4:
        return "drop the alpha channel by cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)"
    if frame.shape[2] != 3:
        return "the last axis must be the three colour channels"
    if frame.dtype != np.uint8:
        return "scale the values to 0..255 and call .astype(numpy.uint8)"
    if frame.size == 0:
        return "the frame is empty"
    return None


def _passes(height: int, width: int, factor: int) -> tuple[tuple[int, int], ...]:
    """Each (width, height) on the way down from ``factor`` times a size to it, by 2 first if that goes.

    Not by 2 again and again: each halving rounds a tie up, and five of them add half a grey level.
    """
    if factor == 1:
        return ()
    if factor == 2 or factor % 2:
        return ((width, height),)
    return ((factor // 2 * width, factor // 2 * height), (width, height))


def _largest_of_shape(frame_height: int, frame_width: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest rectangle of the target's shape in the frame, at least a pixel each."""
    if frame_height * width <= frame_width * height:
        return frame_height, max(frame_height * width // height, 1)
    return max(frame_width * height // width, 1), frame_width
