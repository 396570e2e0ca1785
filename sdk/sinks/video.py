"""An annotated video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2

from sdk.errors import SinkError, UsageError
from sdk.files import AtomicFile, remove_stale_parts
from sdk.result import Result
from sdk.sinks.annotate import annotate, fit
from sdk.sinks.base import Sink, unwritable
from sdk.sources import Frame
from sdk.sources.opencv import quiet_opencv

VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}


class AnnotatedVideo(Sink):
    """A video of the annotated frames; the first frame sets its size, and others are fitted into that.

    Args:
        path: ends in .mp4, .avi or .mkv; an existing file is replaced.
        fps: frames a second, > 0.
        real_time: repeat or leave out frames so that the video lasts as long as a live source did.
    """

    def __init__(self, path: str | os.PathLike[str], *, fps: float, real_time: bool = False) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in VIDEO_CODECS:
            raise UsageError(f"{path}: expected one of {', '.join(VIDEO_CODECS)}, got {self.path.suffix!r}")
        if not fps > 0:
            raise UsageError(f"{path}: expected fps > 0, got {fps}")
        self._fps = fps
        self._real_time = real_time
        self._file = AtomicFile(path)
        self._size = (0, 0)
        self._writer: Any = None
        self._began_s: float | None = None
        self._n_written = 0

    def open(self) -> None:
        quiet_opencv()
        remove_stale_parts(self.path.parent)
        self._begin()
        try:
            self._create((64, 64)).release()  # OpenCV says only now whether it has the codec
        finally:
            self._file.discard()

    def write(self, frame: Frame, result: Result) -> None:
        picture = annotate(frame.image, result, frame.roi)
        if self._writer is None:
            self._size = (picture.shape[1], picture.shape[0])
            self._begin()
            self._writer = self._create(self._size)
        picture = fit(picture, *self._size)
        for _ in range(self._repeats(frame)):
            self._writer.write(picture)
            self._n_written += 1

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        n_readable = self._count_readable()
        if n_readable > 0:
            try:
                self._file.finish()
            except OSError as error:
                raise unwritable(self.path, error) from None
        else:
            self._file.discard()
        if n_readable < self._n_written:
            kept = "which are kept" if n_readable else "so nothing is kept"
            raise SinkError(
                f"{self.path}: {self._n_written} frames were written, {n_readable} of them can be read back, "
                f"{kept}; is the disk full?"
            )

    def _begin(self) -> None:
        try:
            self._file.create()
        except OSError as error:
            raise unwritable(self.path, error, hint="check the folder and its rights") from None

    def _create(self, size: tuple[int, int]) -> Any:
        codec = VIDEO_CODECS[self.path.suffix.lower()]
        writer = cv2.VideoWriter(str(self._file.part), cv2.VideoWriter.fourcc(*codec), self._fps, size)
        if not writer.isOpened():
            raise SinkError(
                f"{self.path}: this OpenCV can't write {codec} video; try .avi, or a folder for pictures"
            )
        return writer

    def _repeats(self, frame: Frame) -> int:
        if not self._real_time or frame.time_s is None:
            return 1
        if self._began_s is None:
            self._began_s = frame.time_s
        due = 1 + int((frame.time_s - self._began_s) * self._fps)
        return max(0, due - self._n_written)

    def _count_readable(self) -> int:
        """OpenCV reports no write error, so ask how many frames the file holds."""
        capture = cv2.VideoCapture(str(self._file.part))
        try:
            return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if capture.isOpened() else 0
        finally:
            capture.release()
