"""Annotated video that keeps the source's times."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from sdk.arrays import Pixels
from sdk.errors import SinkError, UsageError
from sdk.files import AtomicFile, remove_stale_parts
from sdk.result import Result
from sdk.sinks._encoders import VIDEO_CODECS, Encoder, open_encoder, require_encoder
from sdk.sinks.annotate import annotate, annotate_regions, fit
from sdk.sinks.base import Sink, unwritable
from sdk.sources import Frame
from sdk.sources.opencv import quiet_opencv


class AnnotatedVideo(Sink):
    """A video of the annotated frames; the first frame sets its size, and others are fitted into that.

    Each frame is shown at its ``time_s``, so variable rates stay as they were and the video of a live source
    lasts as long as the source did. AVI files, and all files where PyAV is not installed, have one rate
    instead: frames are repeated or left out there to keep the times. Frames without a time follow
    each other at ``fps``. The file appears after half a second; a killed process leaves all but its last
    second.

    Args:
        path: ends in .mp4, .avi or .mkv; an existing file is replaced.
        fps: nominal frames a second, > 0.
    """

    def __init__(self, path: str | os.PathLike[str], *, fps: float) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in VIDEO_CODECS:
            raise UsageError(f"{path}: expected one of {', '.join(VIDEO_CODECS)}, got {self.path.suffix!r}")
        if not 0 < fps < math.inf:
            raise UsageError(f"{path}: expected fps > 0, got {fps}")
        self._fps = fps
        self._file: AtomicFile | None = None
        self._encoder: Encoder | None = None
        self._size = (0, 0)
        self._began_s = 0.0
        self._last_s = 0.0
        self._n_written = 0

    def open(self) -> None:
        quiet_opencv()
        self._file = AtomicFile(self.path)
        try:
            remove_stale_parts(self.path.parent)
            self._stream = self._file.create(buffering=0)
        except OSError as error:
            raise unwritable(self.path, error, hint="check the folder and its rights") from None
        try:
            require_encoder(self._file, self._fps)
        except OSError as error:
            self._file.discard()
            raise unwritable(self.path, error, hint="try .avi, or a folder for pictures") from None

    def write(self, frame: Frame, result: Result) -> None:
        self._add(annotate(frame.image, result, frame.roi), frame)

    def write_regions(self, frame: Frame, results: Sequence[Result]) -> None:
        self._add(annotate_regions(frame, results), frame)

    def close(self) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        encoder, self._encoder = self._encoder, None
        if encoder is None:
            file.discard()
            return
        try:
            encoder.close()
            file.finish()
        except OSError as error:
            raise self._failed(file, error) from None

    def _add(self, picture: Pixels, frame: Frame) -> None:
        assert self._file is not None, "open the sink first"
        try:
            if self._encoder is None:
                self._size = (picture.shape[1], picture.shape[0])
                self._began_s = frame.time_s or 0.0
                self._encoder = open_encoder(self._file, self._stream, self._size, self._fps)
            self._encode(self._encoder, fit(picture, *self._size), frame)
        except OSError as error:
            file, self._file = self._file, None
            raise self._failed(file, error) from None

    def _encode(self, encoder: Encoder, picture: Pixels, frame: Frame) -> None:
        next_s = self._last_s + 1 / self._fps if self._n_written else 0.0
        time_s = next_s if frame.time_s is None else frame.time_s - self._began_s
        if self._n_written and time_s < self._last_s:  # another file of a folder, a clock set back
            self._began_s -= next_s - time_s
            time_s = next_s
        if encoder.keeps_times:
            encoder.write(picture, time_s)
            self._n_written += 1
        else:
            for _ in range(1 + round(time_s * self._fps) - self._n_written):
                encoder.write(picture, self._n_written / self._fps)
                self._n_written += 1
        self._last_s = time_s

    def _failed(self, file: AtomicFile, error: OSError) -> SinkError:
        is_kept = file.is_published and self.path.exists()
        file.discard()
        kept = "what was written before is kept" if is_kept else "nothing is kept"
        return unwritable(self.path, error, hint=kept)
