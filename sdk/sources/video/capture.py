"""Captures of live streams by PyAV, with the methods of ``cv2.VideoCapture`` that ``Live`` uses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

import cv2

from sdk.arrays import Pixels
from sdk.sources.stream import Trust
from sdk.sources.video import pyav
from sdk.sources.video.formats import single_picture
from sdk.sources.video.pyav import Decoder


class StreamCapture:
    """A live stream.

    Raises:
        SourceError: there is one picture alone.
    """

    def __init__(self, decoder: Decoder, name: str) -> None:
        self.decoder = decoder
        self._pictures: Iterator[tuple[Pixels, float | None]] = decoder.pictures()
        self.n_read = 0
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
        self.n_read += picture is not None
        return (False, None) if picture is None else (True, picture[0])

    def has_begun(self) -> bool:
        """Whether there is a first picture; it is read, and given again."""
        first = next(self._pictures, None)
        if first is not None:
            self._pictures = chain([first], self._pictures)
        return first is not None

    def release(self) -> None:
        if self._is_open:
            self._is_open = False
            self.decoder.close()


class Connect:
    """Opens a stream, as often as it is called.

    Cameras send MJPEG in parts that FFmpeg can't tell from each other, without a type or with a wrong length,
    or without parts at all: such a stream is read as JPEGs one behind the other.
    """

    def __init__(self, url: str, name: str, options: dict[str, str], trust: Trust) -> None:
        self._url = url
        self._name = name
        self._options = options
        self._trust = trust
        self._last: StreamCapture | None = None
        self._as_jpegs = False

    def __call__(self) -> StreamCapture | Unopened:
        if self._last is not None and self._last.decoder.container_name == "mpjpeg" and self._last.n_read < 2:
            self._as_jpegs = True
        try:
            self._last = self._open("mjpeg" if self._as_jpegs else None)
        except pyav.ERRORS as error:
            may_be_jpegs = not self._as_jpegs and isinstance(error, pyav.UNKNOWN_DATA)
            return self._open_jpegs() if may_be_jpegs and self._url.lower().startswith("http") else Unopened()
        return self._last

    def _open_jpegs(self) -> StreamCapture | Unopened:
        """The stream as JPEGs, if one comes."""
        try:
            capture = self._open("mjpeg")
        except pyav.ERRORS:
            return Unopened()
        if not capture.has_begun():
            capture.release()
            return Unopened()
        self._last, self._as_jpegs = capture, True
        return capture

    def _open(self, container_format: str | None) -> StreamCapture:
        decoder = pyav.Decoder(
            self._url, self._name, self._options, trust=self._trust, container_format=container_format
        )
        return StreamCapture(decoder, self._name)


class Unopened:
    """A capture that could not be opened."""

    def isOpened(self) -> bool:
        return False

    def release(self) -> None:
        pass
