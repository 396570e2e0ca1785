"""A recorded video: every frame of a file, or of a file on a web server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from sdk.errors import SourceError
from sdk.host.cpus import available_cpus
from sdk.sources import truncation
from sdk.sources.source import Frame, Source, frame_rate

log = logging.getLogger("sdk.sources")

# Edit lists hide, and recorders drop, a few frames that the container counts; a damaged stretch loses more
MAX_SHARE_LOST = 0.05


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
        if truncation.is_cut_short(self._path):
            raise SourceError(
                f"{self.name}: ended after {n_read}{of_total} frames: the file is cut short, get it again"
            )
        if not of_total or not truncation.counts_frames(self._path):
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
        return n_read < (self.total or 0) * (1 - MAX_SHARE_LOST)


def open_video(path: Path) -> Video:
    try:
        with path.open("rb"):
            capture = _open_capture(str(path))
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from None
    if capture.isOpened():
        return Video(str(path), capture, path)
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: the file is empty, get it again")
    if truncation.is_cut_short(path) or truncation.counts_frames(path):
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
