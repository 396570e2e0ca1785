"""Reader of videos by OpenCV alone, for machines without PyAV."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from sdk.arrays import Pixels
from sdk.host.cpus import available_cpus
from sdk.sources.content import NativeName
from sdk.sources.source import frame_rate, in_background
from sdk.sources.video import truncation
from sdk.sources.video.recorded import RecordedVideo, unreadable


class OpenCvVideo(RecordedVideo):
    """A recorded video, read by OpenCV, which reports damage as a mere end: the file's structure has to tell.

    Args:
        name: what messages call it.
        capture: an open ``cv2.VideoCapture``; this object owns it.
        path: the file; None for a pipe or a file on a web server.
        remote: whether it comes over a network.
        is_estimate: whether the frame count is one, at times too high, as Matroska's.
        opened: the name that ``capture`` was opened by.
    """

    def __init__(
        self,
        name: str,
        capture: Any,
        path: Path | None,
        *,
        remote: bool = False,
        is_estimate: bool = False,
        opened: NativeName | None = None,
    ) -> None:
        super().__init__(name, path, remote=remote)
        self._capture = capture
        self._opened = opened
        self._is_estimate = is_estimate
        self._closed = False
        self._in_use = threading.Lock()  # held while OpenCV reads
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.total = int(announced) if announced > 0 else None
        self.fps = frame_rate(capture)

    def close(self) -> None:
        """End reading; a read that blocks in another thread keeps the capture, which must not go then."""
        self._closed = True
        if self._in_use.acquire(timeout=0.5):
            try:
                self._capture.release()
            finally:
                self._in_use.release()
            if self._opened is not None:
                self._opened.close()

    def _pictures(self) -> Iterator[tuple[Pixels, float | None]]:
        is_first = True
        while True:
            with self._in_use:
                if self._closed:
                    return
                readable, image = self._capture.read()
                if not readable:
                    return
                milliseconds = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
            unknown = not is_first and milliseconds <= 0  # not every backend keeps the time
            yield image, None if unknown else max(0.0, milliseconds) / 1e3
            is_first = False

    def _is_open(self) -> bool:
        return not self._closed

    def _n_lost(self, n_read: int) -> int:
        """Frames that MP4, MOV and AVI count and that were not given, less what an edit list hides."""
        total = self.total or 0
        if self._path is None or not truncation.counts_frames(self._path):
            return 0
        shown_s = truncation.shown_duration_s(self._path)
        if shown_s is not None and self.fps:
            total = min(total, round(shown_s * self.fps))
        return max(0, total - n_read)

    def _is_cut_short(self, n_read: int) -> bool:
        if self._path is not None:
            return truncation.is_cut_short(self._path)
        if not self._remote:
            return False
        return n_read == 0 or (n_read < 0.95 * (self.total or 0) and not self._is_estimate)


def open_file(name: str, native: NativeName, path: Path | None) -> OpenCvVideo:
    """Open a video file, or the pipe called ``name`` where ``path`` is None.

    Raises:
        SourceError: it is no video that OpenCV can read.
    """
    capture = in_background(lambda: _open_capture(native.name, once=path is None))
    if capture.isOpened():
        return OpenCvVideo(name, capture, path, opened=native)
    native.close()
    raise unreadable(Path(name) if path is None else path, None, is_pipe=path is None)


def _open_capture(native_name: str, *, once: bool) -> Any:
    """A ``cv2.VideoCapture`` that decodes on half of the CPUs: on all of them it holds up the engines."""
    if hasattr(cv2, "CAP_PROP_N_THREADS"):  # since OpenCV 4.6, for FFmpeg alone
        decoders = max(available_cpus() // 2, 1)
        capture = cv2.VideoCapture(native_name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, decoders])
        if once or capture.isOpened():
            return capture
    return cv2.VideoCapture(native_name)
