"""Video encoders: PyAV, which keeps each frame's time and survives a crash, or OpenCV where it is absent."""

from __future__ import annotations

import errno
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from typing import IO, Any

import cv2

from sdk.arrays import Pixels
from sdk.files import AtomicFile

av: Any
try:
    import av
except ImportError:  # JetPack's Python has OpenCV alone
    av = None

VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}  # OpenCV's names, by suffix

_AV_FORMATS = {".mp4": "mp4", ".avi": "avi", ".mkv": "matroska"}
_AV_CODECS = {
    "mp4": ("libx264", "mpeg4"),
    "avi": ("mjpeg",),
    "matroska": ("libx264", "mpeg4"),
}  # by preference
_CODEC_OPTIONS = {
    "libx264": {"preset": "ultrafast", "tune": "zerolatency", "crf": "20"},  # plays in every browser
    "mpeg4": {"qmin": "2", "qmax": "8"},
    "mjpeg": {"qmin": "2", "qmax": "8"},
}
_PIXEL_FORMATS = {"libx264": "yuv420p", "mpeg4": "yuv420p", "mjpeg": "yuvj420p"}
_FRAGMENT_MS = 500
_OPTIONS = {
    "mp4": {
        "movflags": "frag_keyframe+empty_moov+default_base_moof",
        "frag_duration": str(1000 * _FRAGMENT_MS),
    },
    "matroska": {"cluster_time_limit": str(_FRAGMENT_MS)},
    "avi": {},
}
# MPEG-4 allows 65,535 ticks; in the usual rates, also 30000/1001, a frame takes a whole number of these
_TICKS_PER_S = 60_000
_MAX_DENOMINATOR = 1001
_BITS_PER_PIXEL = 0.3
_CONSTANT_RATE = ".avi"  # the container can't hold a time for each frame
_TRIAL_SIZE = (64, 64)
_MATROSKA_CUES = b"\x1c\x53\xbb\x6b"
_HEAD_BYTES, _TAIL_BYTES = 1024, 4 << 20  # a table in the head names the index, too


class Encoder(ABC):
    """Encodes pictures of one size into a file that is being written.

    Attributes:
        keeps_times: whether each picture may have any time; if not, picture n is shown at ``n / fps``.
    """

    keeps_times: bool

    @abstractmethod
    def write(self, picture: Pixels, time_s: float) -> None:
        """Add a picture ``(H, W, 3)`` that is shown from ``time_s`` on, later than the one before.

        Raises:
            OSError: it can't be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Write what is still inside, and the file's end.

        Raises:
            OSError: it can't be written.
        """


def open_encoder(file: AtomicFile, stream: IO[bytes], size: tuple[int, int], fps: float) -> Encoder:
    """The encoder for ``file``, by its suffix.

    Args:
        stream: the file's, unbuffered.
        size: (width, height), even.
        fps: nominal frames a second.

    Raises:
        OSError: the codec is missing, or the file can't be written.
    """
    if av is not None:
        return _AvEncoder(stream, file.path.suffix.lower(), size, fps, file)
    return _OpenCvEncoder(file, size, fps)


def require_encoder(file: AtomicFile, fps: float) -> None:
    """Prove that there is an encoder for ``file``, which has been created.

    Raises:
        OSError: there is none.
    """
    if av is not None:
        _AvEncoder(io.BytesIO(), file.path.suffix.lower(), _TRIAL_SIZE, fps, None)
    else:
        _OpenCvEncoder(file, _TRIAL_SIZE, fps).release()


class _AvEncoder(Encoder):
    """Writes fragments of half a second, so that a killed process leaves a video that plays up to then."""

    def __init__(
        self, stream: IO[bytes], suffix: str, size: tuple[int, int], fps: float, file: AtomicFile | None
    ) -> None:
        container = _AV_FORMATS[suffix]
        codec = _first_available(_AV_CODECS[container])
        self.keeps_times = suffix != _CONSTANT_RATE
        self._file = file
        self._output = _WholeWrites(stream)
        rate = Fraction(fps).limit_denominator(_MAX_DENOMINATOR)
        ticks = _TICKS_PER_S if self.keeps_times else rate
        self._tick_s = Fraction(1) / ticks
        self._duration = max(1, round(Fraction(1) / rate / self._tick_s))
        self._min_step = min(self._duration, _TICKS_PER_S // 1000) if self.keeps_times else 1
        self._last_tick = -self._min_step
        options = {"flush_packets": "1", **_OPTIONS[container]}
        try:
            self._container: Any = av.open(self._output, "w", format=container, options=options)
            self._stream: Any = self._container.add_stream(codec, rate=rate)
            self._stream.width, self._stream.height = size
            self._stream.pix_fmt = _PIXEL_FORMATS[codec]
            self._stream.time_base = self._stream.codec_context.time_base = self._tick_s
            if codec != "libx264":
                self._stream.bit_rate = int(_BITS_PER_PIXEL * size[0] * size[1] * min(fps, 60.0))
            self._stream.options = _CODEC_OPTIONS[codec]
            self._container.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            raise OSError(errno.EINVAL, f"FFmpeg's {codec} encoder can't be had ({error})") from None
        self._header_bytes = self._whole_bytes = self._output.tell()

    def write(self, picture: Pixels, time_s: float) -> None:
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        frame.time_base = self._tick_s
        frame.pts = self._last_tick = max(self._last_tick + self._min_step, round(time_s / self._tick_s))
        self._mux(frame)

    def close(self) -> None:
        try:
            self._mux(None)
            self._container.close()
        except (OSError, av.error.FFmpegError) as error:
            self._cut()
            raise _as_os_error(error) from None

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                packet.duration = self._duration
                self._container.mux(packet)
        except (OSError, av.error.FFmpegError) as error:
            self._cut()
            raise _as_os_error(error) from None
        self._whole_bytes = self._output.tell()
        if self._file is not None and self._whole_bytes > self._header_bytes:
            self._file.publish()  # the first fragment is there

    def _cut(self) -> None:
        """Drop a fragment that a full disk took a part of."""
        self._output.is_broken = True
        with suppress(OSError):
            self._output.truncate(self._whole_bytes)
        with suppress(OSError, av.error.FFmpegError):
            self._container.close()


def _first_available(codecs: Sequence[str]) -> str:
    """The first of these encoders that this FFmpeg has.

    Raises:
        OSError: it has none.
    """
    for codec in codecs:
        with suppress(av.error.FFmpegError, ValueError):
            av.codec.Codec(codec, "w")
            return codec
    raise OSError(errno.EINVAL, f"this FFmpeg has no encoder {' or '.join(codecs)}")


def _as_os_error(error: Exception) -> OSError:
    reason = getattr(error, "strerror", None) or str(error)
    return OSError(getattr(error, "errno", None) or errno.EIO, reason)


class _WholeWrites:
    """The file that PyAV writes to: each write is whole or an error; later ones have no effect."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.is_broken = False
        self.seek, self.tell, self.truncate = stream.seek, stream.tell, stream.truncate

    def write(self, data: bytes) -> int:
        if self.is_broken:
            return len(data)
        left = memoryview(data)
        while left:
            left = left[self._stream.write(left) or 0 :]
        return len(data)


class _OpenCvEncoder(Encoder):
    """Writes at one rate; a killed process leaves an MP4 that can't be played, since its index is missing."""

    keeps_times = False

    def __init__(self, file: AtomicFile, size: tuple[int, int], fps: float) -> None:
        self._file = file
        self._n_written = 0
        suffix = file.path.suffix.lower()
        self._is_matroska = suffix == ".mkv"
        codec = VIDEO_CODECS[suffix]
        for rate in dict.fromkeys((fps, *(round(fps, digits) for digits in (2, 1, 0)), 1.0)):
            if rate > 0:  # an odd rate makes a fraction that MPEG-4 has no room for
                fourcc = cv2.VideoWriter.fourcc(*codec)
                self._writer: Any = cv2.VideoWriter(os.fspath(file.part), fourcc, rate, size)
                if self._writer.isOpened():
                    return
        raise OSError(errno.EINVAL, f"this OpenCV can't write {codec} video")

    def write(self, picture: Pixels, time_s: float) -> None:
        self._writer.write(picture)
        self._n_written += 1

    def close(self) -> None:
        """OpenCV reports no write error, so ask how many frames the file holds."""
        self._writer.release()
        n_readable = self._count_readable()
        if n_readable > 0:
            self._file.publish()
        if n_readable < self._n_written:
            what = f"of {self._n_written} frames {n_readable} can be read back; is the disk full?"
            raise OSError(errno.ENOSPC, what)
        if self._is_matroska and not self._has_index():
            raise OSError(errno.ENOSPC, "the file's end is missing; is the disk full?")

    def release(self) -> None:
        self._writer.release()

    def _count_readable(self) -> int:
        capture = cv2.VideoCapture(os.fspath(self._file.part))
        try:
            return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if capture.isOpened() else 0
        finally:
            capture.release()

    def _has_index(self) -> bool:
        """Whether the file has its index, which is written last: the count in the header is an estimate."""
        with self._file.part.open("rb") as stream:
            start = max(_HEAD_BYTES, stream.seek(0, os.SEEK_END) - _TAIL_BYTES)
            stream.seek(start)
            return _MATROSKA_CUES in stream.read()
