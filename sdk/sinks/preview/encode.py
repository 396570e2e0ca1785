"""Pictures for a browser, each drawn once however many look."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np

from sdk.arrays import Pixels
from sdk.preprocess import resize
from sdk.sinks.annotate import annotate_regions, fit, mark_regions
from sdk.sinks.record import records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdk.sinks.preview.feed import Shown

MAX_WIDTH = 1280  # pixels
JPEG_QUALITY = 80
MAX_PNG_SIDE = 128  # of a purified picture; larger ones are sent as JPEG
MAX_KEPT = 64  # pictures; one per source and kind


class Pictures:
    """Encoded pictures of the newest frames; the last one of each source and kind is kept."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._kept: dict[tuple[str, str], tuple[int, bytes]] = {}

    def annotated(self, shown: Shown) -> bytes:
        """The annotated frame as a JPEG."""
        return self._once("annotated", shown, lambda: _jpeg(annotate_regions(shown.frame, shown.results)))

    def message(self, shown: Shown) -> bytes:
        """One frame for the page: picture and decisions in one piece, so that they can't drift apart.

        Three lengths (uint32, big-endian), then the records as JSON, the frame as a JPEG, and what ``pair``
        gives, which may be empty.
        """
        return self._once("message", shown, lambda: self._message(shown))

    def _message(self, shown: Shown) -> bytes:
        decisions = records(shown.frame, shown.results, self._labels)
        text = msgspec.json.encode({"number": shown.number, "records": decisions})
        picture = _jpeg(mark_regions(shown.frame, shown.results))
        both = pair(shown) or b""
        return struct.pack(">III", len(text), len(picture), len(both)) + text + picture + both

    def _once(self, kind: str, shown: Shown, draw: Callable[[], bytes]) -> bytes:
        key = (shown.source, kind)
        number, data = self._kept.get(key, (0, b""))
        if number != shown.number:
            if key not in self._kept and len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            data = draw()
            self._kept[key] = (shown.number, data)
        return data


def pair(shown: Shown) -> bytes | None:
    """The first region as it entered the engines and, at its right, as the purifier left it.

    A PNG, pixel for pixel, or a JPEG if it is large; None if the frame was skipped.
    """
    result = shown.results[0]
    purified = result.purified
    if purified is None:
        return None
    region = shown.frame.region if result.region is None else result.region.crop(shown.frame.image)
    both = np.hstack([resize(region, *purified.shape[:2]), purified])
    suffix = ".png" if max(purified.shape[:2]) <= MAX_PNG_SIDE else ".jpg"
    data: bytes = cv2.imencode(suffix, both)[1].tobytes()
    return data


def _jpeg(picture: Pixels) -> bytes:
    height, width = picture.shape[:2]
    if width > MAX_WIDTH:
        picture = fit(picture, MAX_WIDTH, round(height * MAX_WIDTH / width))
    data: bytes = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return data
