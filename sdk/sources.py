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
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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
    source = _open(spec)
    return source if roi is None else WithRoi(source, roi)


class Pictures(Source):
    """Picture files, each decoded when its turn comes; one that can't be is an error, never skipped."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name = name
        self.total = len(paths)
        self._paths = paths

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            yield Frame(_read_picture(path), index, str(path))


class Video(Source):
    """A recorded video: every frame, then an error if the file is damaged."""

    def __init__(self, name: str, capture: Any, path: Path | None) -> None:
        self.name = name
        self._capture = capture
        self._path = path
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.total = int(announced) if announced > 0 else None
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if fps > 0 else None

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
        if n_read == 0:
            raise SourceError(f"{self.name}: no frame in it can be read; the file is damaged, get it again")
        if self._path is not None and containers.is_cut_short(self._path):
            raise SourceError(
                f"{self.name}: ended after {n_read}{of_total} frames: the file is cut short, get it again"
            )
        if not of_total or self._path is None or not containers.counts_frames(self._path):
            return
        if n_read < self.total * (1 - FRAMES_LOST_AT_MOST):  # type: ignore[operator]
            raise SourceError(
                f"{self.name}: only {n_read}{of_total} frames can be read: the file is damaged, get it again"
            )
        log.warning("%s: %d%s frames can be read", self.name, n_read, of_total)


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
            return live.open_camera(int(text))
        if "://" in text:
            return live.open_stream(text)
    if text.startswith("/dev/video"):
        return live.open_camera(text)
    return _open_path(text)


def _open_path(text: str) -> Source:
    path = Path(text)
    if path.is_dir():
        paths = _pictures([entry for entry in path.iterdir() if not entry.name.startswith(".")])
        return Pictures(text, _require_pictures(paths, f"folder {text}"))
    if path.exists():
        return Pictures(text, [path]) if path.suffix.lower() in PICTURE_SUFFIXES else _open_video(path)
    if glob.has_magic(text):
        paths = _pictures([Path(match) for match in glob.glob(text, recursive=True)])  # noqa: PTH207 - absolute too
        return Pictures(text, _require_pictures(paths, f"glob {text}"))
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
    if hasattr(cv2, "CAP_PROP_N_THREADS"):  # since OpenCV 4.6, for FFmpeg alone
        decoders = max(available_cpus() // 2, 1)
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, decoders])
        if capture.isOpened():
            return capture
    return cv2.VideoCapture(path)


def _read_picture(path: Path) -> npt.NDArray[np.uint8]:
    try:
        data = path.read_bytes()
        # imdecode, since imread accepts a JPEG that is cut short and fills the rest with grey
        image = (
            None
            if containers.is_damaged_png(data)
            else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        )
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from None
    except cv2.error:  # an empty file, or more pixels than OpenCV allows
        image = None
    if image is None:
        raise SourceError(f"{path}: not a picture, or a damaged one; get it again or take it out")
    return image  # type: ignore[no-any-return]


def _pictures(entries: Sequence[Path]) -> list[Path]:
    found = [entry for entry in entries if entry.suffix.lower() in PICTURE_SUFFIXES and entry.is_file()]
    return sorted(found, key=lambda entry: _natural(str(entry)))


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts frame-9 before frame-10."""
    parts = re.split(r"(\d+)", name)  # text and numbers take turns, so like is compared with like
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def _require_pictures(paths: list[Path], where: str) -> list[Path]:
    if not paths:
        kinds = " ".join(sorted(suffix[1:] for suffix in PICTURE_SUFFIXES))
        raise SourceError(f"{where}: no picture in it; expected files of the kinds {kinds}")
    return paths
