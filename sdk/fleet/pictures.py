"""Encoded pictures from strangers: what is no picture, damaged, or unpacks to too much is refused by name.

The number of pixels is known from a picture's first bytes; OpenCV, which reads the limit from its environment
when it is loaded, checks it before it unpacks anything. ``sdk.fleet.cluster`` starts its processes with it.
"""

from __future__ import annotations

import cv2
import numpy as np

from sdk.arrays import Pixels
from sdk.errors import SourceError
from sdk.sources.content import is_damaged_png, looks_like_picture

MAX_PIXELS = 1 << 26  # 67 million: 200 MB unpacked
MAX_BYTES = 64 << 20  # of an encoded picture in a batch


class NotAPictureError(SourceError):
    """The bytes are of another kind."""


class TooLargeError(SourceError):
    """The picture has more bytes or pixels than are unpacked."""


def decode(data: bytes, name: str, *, max_bytes: int = MAX_BYTES) -> Pixels:
    """The picture in ``data``, (H, W, 3) uint8 BGR.

    Raises:
        TooLargeError: more bytes, or more than ``MAX_PIXELS`` pixels.
        NotAPictureError: it is none.
        SourceError: a damaged one, or empty.
    """
    if not data:
        raise SourceError(f"{name}: empty", hint="get it again")
    if len(data) > max_bytes:
        raise TooLargeError(f"{name}: {len(data)} bytes, expected at most {max_bytes}")
    if not looks_like_picture(data):
        raise NotAPictureError(f"{name}: not a picture", hint="give JPEG, PNG, WebP, BMP, TIFF or PNM")
    image = None
    if not is_damaged_png(data):  # libpng would print a line of its own
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:
            if "CV_IO_MAX_IMAGE" in str(error) or "pixels" in str(error):
                raise TooLargeError(f"{name}: more than {MAX_PIXELS} pixels") from None
    if image is None:
        raise SourceError(f"{name}: a damaged picture", hint="get it again")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise TooLargeError(f"{name}: {image.shape[1]} x {image.shape[0]}, more than {MAX_PIXELS} pixels")
    return image  # type: ignore[no-any-return]
