"""Captures of live streams by PyAV, with the methods of ``cv2.VideoCapture`` that ``Live`` uses."""

from __future__ import annotations

from itertools import chain, islice

import cv2

from sdk.arrays import Pixels
from sdk.sources.video.formats import single_picture
from sdk.sources.video.pyav import Decoder


class StreamCapture:
    """A live stream.

    Raises:
        SourceError: there is one picture alone.
    """

    def __init__(self, decoder: Decoder, name: str) -> None:
        self.decoder = decoder
        self._pictures = decoder.pictures()
        self._is_open = True
        if decoder.may_be_single:
            ahead = list(islice(self._pictures, 2))
            if len(ahead) < 2:
                self.release()
                raise single_picture(name, "jpeg")
            self._pictures = chain(ahead, self._pictures)

    def isOpened(self) -> bool:
        return self._is_open

    def get(self, prop: int) -> float:
        """The frame rate, which is all that is asked."""
        return (self.decoder.fps or 0.0) if prop == cv2.CAP_PROP_FPS else 0.0

    def read(self) -> tuple[bool, Pixels | None]:
        picture = next(self._pictures, None)
        return (False, None) if picture is None else (True, picture[0])

    def release(self) -> None:
        if self._is_open:
            self._is_open = False
            self.decoder.close()


class Unopened:
    """A capture that could not be opened."""

    def isOpened(self) -> bool:
        return False

    def release(self) -> None:
        pass
