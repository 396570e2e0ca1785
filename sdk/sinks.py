"""Where results go: an annotated video, annotated pictures, JSON lines, a window.

    with AnnotatedVideo("out.mp4", fps=25) as sink:
        sink.write(frame, result)

Entering a sink proves that it can be written, so that a wrong path costs no work.  A file is written under
another name beside its own and gets that name when it is complete: on closing, also after Ctrl-C or an error,
if at least one frame is in it; otherwise nothing is left, and a file that was there before stays.
"""

from __future__ import annotations

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import cv2
import msgspec

from sdk.annotate import annotate, fit
from sdk.errors import SinkError, UsageError
from sdk.quiet import quiet_opencv
from sdk.records import record
from sdk.result import Result
from sdk.sources import Frame

VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
_QUIT_KEYS = (ord("q"), 27)  # 27 is Escape

_Self = TypeVar("_Self", bound="Sink")


class Sink(ABC):
    """Takes every frame with its Result; a context manager.

    Attributes:
        on_main_thread: whether ``write`` must run on the program's main thread.
        done: True once it wants no more, such as a window that the user closed.
    """

    on_main_thread = False
    done = False

    def open(self) -> None:  # noqa: B027 - not every sink holds something open
        """Get ready.

        Raises:
            SinkError: it can't be written.
        """

    @abstractmethod
    def write(self, frame: Frame, result: Result) -> None:
        """Write one frame and its result.

        Raises:
            SinkError: it can't be written any more.
        """

    def close(self) -> None:  # noqa: B027
        """Complete what was written, or remove it if there is no frame in it; closing twice is harmless.

        Raises:
            SinkError: what was written is not complete.
        """

    def __enter__(self: _Self) -> _Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_save(path: str | os.PathLike[str], fps: float | None, *, real_time: bool = False) -> Sink:
    """The sink that ``--save PATH`` means: a video by its suffix, or a folder of pictures.

    Raises:
        UsageError: a suffix that is neither.
    """
    suffix = Path(path).suffix.lower()
    if suffix in VIDEO_CODECS:
        return AnnotatedVideo(path, fps=fps or 10.0, real_time=real_time)
    if suffix and not Path(path).is_dir():
        raise UsageError(
            f"--save {path}: expected a video's suffix ({', '.join(VIDEO_CODECS)}) "
            f"or a folder for pictures, got {suffix}"
        )
    return AnnotatedImages(path)


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
        self._part = _beside(self.path)
        self._size = (0, 0)
        self._writer: Any = None
        self._began_s: float | None = None
        self._n_written = 0

    def open(self) -> None:
        quiet_opencv()
        _require_writable(self._part, self.path)
        try:
            self._create((64, 64)).release()  # OpenCV says only now whether it has the codec
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, frame: Frame, result: Result) -> None:
        picture = annotate(frame.image, result, frame.roi)
        if self._writer is None:
            self._size = (picture.shape[1], picture.shape[0])
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
        self._require_complete()
        self._part.replace(self.path)

    def _create(self, size: tuple[int, int]) -> Any:
        codec = VIDEO_CODECS[self.path.suffix.lower()]
        writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*codec), self._fps, size)
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

    def _require_complete(self) -> None:
        """OpenCV reports no write error, so read back how many frames the file claims."""
        capture = cv2.VideoCapture(str(self._part))
        n_readable = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if n_readable < self._n_written:
            self._part.unlink(missing_ok=True)
            raise SinkError(
                f"{self.path}: {self._n_written} frames were written, {max(0, n_readable)} of them "
                "can be read back; is the disk full?"
            )


class AnnotatedImages(Sink):
    """Every annotated frame as a PNG in a folder, named after its source and index: ``clip-000012.png``."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def open(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"{self.folder}: can't be a folder for pictures: {error.strerror}") from None
        _require_writable(self.folder / ".part", self.folder)
        (self.folder / ".part").unlink(missing_ok=True)

    def write(self, frame: Frame, result: Result) -> None:
        stem = re.sub(r"[^\w.-]+", "-", Path(frame.source).stem).strip("-") or "frame"
        path = self.folder / f"{stem}-{frame.index:06d}.png"
        part = _beside(path)
        try:
            part.write_bytes(cv2.imencode(".png", annotate(frame.image, result, frame.roi))[1].tobytes())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise SinkError(f"{path}: can't be written: {error.strerror}") from None


class JsonLines(Sink):
    """One JSON object a line, a ``Record`` per frame, flushed as it is written.

    Args:
        path: a file, replaced when complete; ``-`` is standard output.
        labels: the bundle's labels, in the order of ``Result.probabilities``.
    """

    def __init__(self, path: str | os.PathLike[str], labels: Sequence[str]) -> None:
        self.path = Path(path)
        self._labels = labels
        self._to_stdout = os.fspath(path) == "-"
        self._part = _beside(self.path)
        self._stream: BinaryIO | None = None
        self._encoder = msgspec.json.Encoder()
        self._n_written = 0

    def open(self) -> None:
        if self._to_stdout:
            self._stream = sys.stdout.buffer
            return
        _require_writable(self._part, self.path)
        self._stream = self._part.open("wb")

    def write(self, frame: Frame, result: Result) -> None:
        assert self._stream is not None, "open the sink first"
        try:
            self._stream.write(self._encoder.encode(record(frame, result, self._labels)) + b"\n")
            self._stream.flush()
        except BrokenPipeError:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # or Python's exit complains as well
            raise SinkError("standard output: its reader is gone") from None
        except OSError as error:
            raise SinkError(f"{self.path}: can't be written: {error.strerror}") from None
        self._n_written += 1

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None or self._to_stdout:
            return
        try:
            stream.close()
            if self._n_written:
                self._part.replace(self.path)
        except OSError as error:
            raise SinkError(f"{self.path}: can't be written: {error.strerror}") from None
        finally:
            self._part.unlink(missing_ok=True)


class Window(Sink):
    """Shows the annotated frames; ``q`` or Escape ends the loop."""

    on_main_thread = True

    def __init__(self, title: str = "edge-purify") -> None:
        self._title = title
        self._is_open = False

    def open(self) -> None:
        variables = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
        if sys.platform == "linux" and not any(os.environ.get(name) for name in variables):
            raise SinkError("--show: there is no display here (DISPLAY is not set); use --save instead")
        try:
            cv2.namedWindow(self._title, cv2.WINDOW_AUTOSIZE)
        except cv2.error:
            raise SinkError(
                "--show: this OpenCV is built without windows (headless); use --save instead"
            ) from None
        self._is_open = True

    def write(self, frame: Frame, result: Result) -> None:
        cv2.imshow(self._title, annotate(frame.image, result, frame.roi))
        self.done = cv2.waitKey(1) & 0xFF in _QUIT_KEYS

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            cv2.destroyWindow(self._title)


def _beside(path: Path) -> Path:
    """The name under which ``path`` is written: in its folder, with its suffix, which OpenCV goes by."""
    return path.with_name(f"{path.stem}.part{path.suffix}")


def _require_writable(part: Path, path: Path) -> None:
    if path.is_dir() and part.parent != path:
        raise SinkError(f"{path}: is a folder, expected a file's name")
    try:
        part.open("wb").close()
    except OSError as error:
        raise SinkError(
            f"{path}: can't be written: {error.strerror}; check the folder and its rights"
        ) from None
