"""The newest frame as pictures for a browser, each drawn once however many look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from sdk.preprocess import resize
from sdk.sinks.annotate import annotate, fit

if TYPE_CHECKING:
    from sdk.sinks.preview.feed import Shown

WIDEST = 1280  # pixels
JPEG_QUALITY = 80


class LivePicture:
    """The annotated frame as a JPEG; the last one is kept."""

    def __init__(self) -> None:
        self._number = 0
        self._jpeg = b""

    def of(self, shown: Shown) -> bytes:
        if shown.number != self._number:
            picture = annotate(shown.frame.image, shown.result, shown.frame.roi)
            height, width = picture.shape[:2]
            if width > WIDEST:
                picture = fit(picture, WIDEST, round(height * WIDEST / width))
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            self._number, self._jpeg = shown.number, cv2.imencode(".jpg", picture, quality)[1].tobytes()
        return self._jpeg


def pair(shown: Shown) -> bytes | None:
    """What entered the engines and, at its right, what the purifier made of it, pixel for pixel as a PNG.

    None if the frame was skipped.
    """
    purified = shown.result.purified
    if purified is None:
        return None
    raw = resize(shown.frame.region, *purified.shape[:2])
    png: bytes = cv2.imencode(".png", np.hstack([raw, purified]))[1].tobytes()
    return png
