"""Where frames come from: a camera, a stream, a video, a picture, a folder or glob of pictures.

    with open_source("clip.mp4") as source:
        for frame in source:
            purifier(frame.image)

``open_source`` has opened what it returns, so a wrong name is an error before any work begins.  A recorded
source (``live`` false) gives every frame; a live one the newest, see ``sdk.live``.
"""

from __future__ import annotations

import glob
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from sdk import containers
from sdk.cpus import available_cpus
from sdk.errors import SourceError
from sdk.quiet import quiet_opencv
from sdk.roi import Roi

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
# Edit lists hide, and recorders drop, a few frames that the container counts; a damaged stretch loses more
FRAMES_LOST_AT_MOST = 0.05
MOST_FPS = 1000.0  # streams that don't know their rate give their clock's, such as 90000

_Self = TypeVar("_Self", bound="Source")


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        image: ``(H, W, 3)`` uint8, BGR.
        index: its number in the source, from 0; a live source's gaps are frames that nobody asked for.
        source: the file, camera or stream it comes from; a stream's password is masked.
        time_s: seconds since the source's beginning; None for pictures, which have no time.
        roi: the part of the picture that is to be purified; None is all of it.
    """

    image: npt.NDArray[np.uint8]
    index: int
    source: str
    time_s: float | None = None
    roi: Roi | None = None

    @property
    def region(self) -> npt.NDArray[np.uint8]:
        """What is to be purified, ``(H, W, 3)``: a view of ``image``."""
        return self.image if self.roi is None else self.roi.crop(self.image)


class Source(ABC):
    """Frames, once through: iterate it one time, and close it or use it as a context manager.

    Attributes:
        name: what a message calls it.
        live: whether it gives the newest frame (True) or every frame.
        total: the number of frames to expect, None where nobody knows; an estimate for some video containers.
        fps: frames a second, None where there is no such thing.
    """

    name: str
    live: bool = False
    total: int | None = None
    fps: float | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            SourceError: the source is damaged or lost; every frame before that has been yielded.
        """

    def close(self) -> None:  # noqa: B027 - pictures hold nothing open
        """Release the source; iterating it ends."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(spec: int | str | os.PathLike[str], *, roi: Roi | None = None) -> Source:
    """Open a source of frames.

    Args:
        spec: a camera's number (``0`` or ``"0"``) or device (``/dev/video0``); a video or picture file; a
            folder of pictures, in natural order, or a glob (quote it from the shell); ``rtsp://…``,
            ``http://…`` and the like; ``csi://0``, a Jetson's CSI camera.
        roi: the part of every frame that is to be purified.

    Raises:
        SourceError: there is no such thing, it can't be opened, or it holds no frame.
    """
    try:
        source = _open(spec)
    except OSError as error:
        raise SourceError(f"{spec}: can't be read: {error.strerror}") from None
    return source if roi is None else WithRoi(source, roi)


class Video(Source):
    """A recorded video: every frame, then an error if the file is damaged."""

    def __init__(self, name: str, capture: Any, path: Path | None) -> None:
        self.name = name
        self._capture = capture
        self._path = path
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.total = int(announced) if announced > 0 else None
        self.fps = frame_rate(capture)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while True:
            readable, image = self._capture.read()
            if not readable:
                break
            yield Frame(image, index, self.name, self._time_s(index))
            index += 1
        self._require_whole(index)

    def close(self) -> None:
        self._capture.release()

    def _time_s(self, index: int) -> float | None:
        milliseconds = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        if index and milliseconds <= 0:  # not every backend keeps the time
            return index / self.fps if self.fps else None
        return max(0.0, milliseconds) / 1e3

    def _require_whole(self, n_read: int) -> None:
        if not self._capture.isOpened():  # closed by us, from another thread: not the video's end
            return
        of_total = f" of {self.total}" if self.total and self.total > n_read else ""
        if self._path is None:
            self._require_connected(n_read, of_total)
            return
        if n_read == 0:
            raise SourceError(f"{self.name}: no frame in it can be read; the file is damaged, get it again")
        if containers.is_cut_short(self._path):
            raise SourceError(
                f"{self.name}: ended after {n_read}{of_total} frames: the file is cut short, get it again"
            )
        if not of_total or not containers.counts_frames(self._path):
            return
        if self._lost_many(n_read):
            raise SourceError(
                f"{self.name}: only {n_read}{of_total} frames can be read: the file is damaged, get it again"
            )
        log.warning("%s: %d%s frames can be read", self.name, n_read, of_total)

    def _require_connected(self, n_read: int, of_total: str) -> None:
        """A web server's file can't be looked into; Matroska's count is an estimate, at times too high."""
        if n_read and not self._lost_many(n_read):
            return
        if n_read and self.name.partition("?")[0].lower().endswith((".mkv", ".webm")):
            log.warning("%s: ended after %d%s frames, by estimate", self.name, n_read, of_total)
            return
        raise SourceError(
            f"{self.name}: ended after {n_read}{of_total} frames: the connection was lost, or the file is "
            "damaged; check the server, or download the file first"
        )

    def _lost_many(self, n_read: int) -> bool:
        return n_read < (self.total or 0) * (1 - FRAMES_LOST_AT_MOST)


def frame_rate(capture: Any) -> float | None:
    """Frames a second as a ``cv2.VideoCapture`` has it; None where it can't be that."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps <= MOST_FPS else None


class WithRoi(Source):
    """Another source's frames, each with its region of interest.

    Iterating it raises a UsageError at the first frame that the region does not lie in.
    """

    def __init__(self, source: Source, roi: Roi) -> None:
        self.name, self.live, self.total, self.fps = source.name, source.live, source.total, source.fps
        self._source = source
        self._roi = roi

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            self._roi.check(frame.image, frame.source)
            yield replace(frame, roi=self._roi)

    def close(self) -> None:
        self._source.close()


def _open(spec: int | str | os.PathLike[str]) -> Source:
    from sdk import live  # it builds on this module

    quiet_opencv()
    if isinstance(spec, int):
        return live.open_camera(spec)
    text = os.fspath(spec)
    if isinstance(spec, str):
        if text.isascii() and text.isdecimal():
            return live.open_camera(text)
        if "://" in text:
            return live.open_stream(text)
    device = os.path.realpath(text)  # udev's names, such as /dev/v4l/by-id/…, are links
    if device.startswith("/dev/video"):
        return live.open_camera(device)
    return _open_path(text)


def _open_path(text: str) -> Source:
    from sdk import pictures  # it builds on this module

    path = Path(text)
    if path.is_dir():
        return pictures.of_folder(path)
    if path.exists():
        is_picture = path.suffix.lower() in PICTURE_SUFFIXES
        return pictures.Pictures(text, [path]) if is_picture else _open_video(path)
    if glob.has_magic(text):
        return pictures.of_glob(text)
    raise SourceError(
        f"{text}: no such file or folder; give a camera number, video, picture, folder, glob or URL"
    )


def _open_video(path: Path) -> Video:
    try:
        with path.open("rb"):
            capture = _open_capture(str(path))
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from None
    if capture.isOpened():
        return Video(str(path), capture, path)
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: the file is empty, get it again")
    if containers.is_cut_short(path) or containers.counts_frames(path):
        raise SourceError(
            f"{path}: a damaged video, nothing in it can be read: the file is cut short, get it again"
        )
    raise SourceError(
        f"{path}: neither a video nor a picture that OpenCV can read; convert it to MP4, AVI or PNG"
    )


def _open_capture(path: str) -> Any:
    """A ``cv2.VideoCapture`` that decodes on half of the CPUs: on all of them it holds up the engines."""
    path = str(Path(path).absolute())  # FFmpeg takes 12:30.avi for a protocol
    if hasattr(cv2, "CAP_PROP_N_THREADS"):  # since OpenCV 4.6, for FFmpeg alone
        decoders = max(available_cpus() // 2, 1)
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, decoders])
        if capture.isOpened():
            return capture
    return cv2.VideoCapture(path)
