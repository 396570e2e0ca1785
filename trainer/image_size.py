"""The size of images, as a config and a caller may give it."""

from __future__ import annotations

from collections.abc import Sequence

ImageSize = int | Sequence[int]  #: the side of square images, or height and width


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """``size`` with both sides in it."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width
