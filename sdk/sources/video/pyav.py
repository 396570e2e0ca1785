"""Reader of files and streams by PyAV, which tells what OpenCV hides: damaged frames, edit lists, times.

PyAV is optional, since Jetson's system has no wheel of it in every release: without it OpenCV reads, see
``sdk.sources.video.opencv``. Names passed in here are URLs or absolute paths that native code can open.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import cv2
import numpy as np

from sdk.arrays import Pixels
from sdk.errors import SourceError
from sdk.host.cpus import available_cpus
from sdk.sources.content import MJPEG_SUFFIXES
from sdk.sources.source import sane_rate
from sdk.sources.stream import OPEN_TIMEOUT_S, READ_TIMEOUT_S, Trust, https_opener
from sdk.sources.video import formats
from sdk.sources.video.clock import Clock


def _import() -> Any:
    """The module ``av``, an optional dependency; None where it is absent."""
    try:
        return import_module("av")
    except ImportError:
        return None


av = _import()
ERRORS: tuple[type[Exception], ...] = (OSError, ValueError)  # PyAV's mix in several of Python's
UNKNOWN_DATA: tuple[type[Exception], ...] = ()  # among them: something came, and FFmpeg doesn't know it
if av is not None:
    ERRORS = (*ERRORS, av.error.FFmpegError)
    UNKNOWN_DATA = (av.error.InvalidDataError, av.error.OSError)
log = logging.getLogger("sdk.sources")

_HDR_TRANSFERS = (16, 18)  # PQ and HLG, by ITU-T H.273
_TURNS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    -90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    -180: cv2.ROTATE_180,
}


class Decoder:
    """The frames of one video stream of a container, each as a picture with its time.

    Args:
        native_name: a URL, or a path that native code can open.
        shown_name: what messages call it.
        options: FFmpeg's, by name.
        trust: whose certificates are believed, of https; for what ``options`` don't reach.
        container_format: FFmpeg's name of it; None lets FFmpeg find out.

    Attributes:
        n_lost: frames that are missing or damaged between those that were given.
        n_packets: of the stream, so far.

    Raises:
        SourceError: what it holds is no video that can be served; the message says what it is.
        one of ``ERRORS``: FFmpeg can't open it.
    """

    def __init__(
        self,
        native_name: str,
        shown_name: str,
        options: dict[str, str] | None = None,
        *,
        trust: Trust | None = None,
        container_format: str | None = None,
    ) -> None:
        self.n_lost = self.n_packets = 0
        self.error: str | None = None  # why reading ended early, if it did
        self._name = shown_name
        self._stop = False
        self._in_use = threading.Lock()  # held while FFmpeg is at work, which must not be closed then
        is_url = "://" in native_name
        # a file by its protocol: 12:30.avi is no URL, and %d in a name no pattern
        url = native_name if is_url else f"file:{native_name}"
        how: dict[str, Any] = {
            "options": dict(options or {}),
            "metadata_errors": "ignore",
            "format": container_format,
        }
        if url.lower().endswith(MJPEG_SUFFIXES) and not is_url:
            how["format"] = "mjpeg"  # JPEGs one after the other; else FFmpeg takes the first alone
        if is_url:
            how["timeout"] = (OPEN_TIMEOUT_S, READ_TIMEOUT_S)
        self.container = self._open(url, how, trust)
        try:
            self.stream = self._choose_stream()
            # threads that decode a frame each hold back as many frames, which a live stream must not
            self.stream.thread_type = "SLICE" if is_url and self.duration_s is None else "AUTO"
            # on half of the CPUs: on all of them, decoding holds up the engines
            self.stream.codec_context.thread_count = max(available_cpus() // 2, 1)
        except BaseException:
            self.container.close()
            raise
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._last_position = -1
        self._last_time_s = 0.0

    @property
    def container_name(self) -> str:
        """FFmpeg's name of the container, or several with commas."""
        return str(self.container.format.name)

    @property
    def is_finite(self) -> bool:
        """Whether a URL leads to a file; cameras announce a size of MJPEG that never comes."""
        return self.duration_s is not None or (self.container.size > 0 and "jpeg" not in self.container_name)

    @property
    def fps(self) -> float | None:
        rates = (self.stream.average_rate, self.stream.guessed_rate)  # DV's first is its clock's
        return next((float(rate) for rate in rates if rate and sane_rate(float(rate))), None)

    @property
    def total(self) -> int | None:
        """Frames to expect: what the container counts, less what its edit list hides; else an estimate."""
        duration_s, fps = self.duration_s, self.fps
        estimate = round(duration_s * fps) if duration_s and fps else None
        counted: int = self.stream.frames
        if (
            counted
            and estimate
            and estimate < 0.95 * counted
            and self.container.format.name.startswith("mov")
        ):
            return estimate
        return counted or estimate

    @property
    def duration_s(self) -> float | None:
        """As the container says; None for a live stream."""
        duration, start = self.container.duration, self.container.start_time or 0
        if not duration or duration <= 0:
            return None
        if "matroska" in self.container.format.name and 0 < start < duration:
            duration -= start  # its duration is the last frame's time
        return float(duration / 1e6)

    def pictures(self) -> Iterator[tuple[Pixels, float | None]]:
        """Every whole frame, ``(H, W, 3)`` BGR, upright, with its seconds since the first one."""
        n_given = n_before = 0
        clock = Clock(float(self.stream.time_base), 1 / self.fps if self.fps else 0.0)
        for frame in self._frames():
            if frame is None or frame.is_corrupt:
                # a stream that is joined in its middle begins with frames that lack what they refer to
                n_before += not n_given
                self.n_lost += n_given > 0
                continue
            time_s = clock.seconds(frame.pts, frame.dts)
            self._last_time_s = clock.last_s
            n_given += 1
            yield self._picture(frame), time_s
        if not n_given:
            self.n_lost += n_before
        if self.stream.codec_context.codec.intra_only:  # then each packet is a frame, also where it gave none
            self.n_lost = max(self.n_lost, self.n_packets - n_given)
        if not self._stop and (indexed := self._n_indexed()):
            # FFmpeg goes on behind what is no packet, without a word
            self.n_lost = max(self.n_lost, indexed - self.n_packets)

    def is_cut_short(self, size_bytes: int) -> bool | None:
        """Whether data that the container's index names lies behind the end; None where it has no index."""
        entries = self.stream.index_entries
        if len(entries) < 2:
            return None
        if max(entry.pos + entry.size for entry in entries) > size_bytes:
            return True
        return False if len(entries) >= self.stream.frames > 0 else None

    def _n_indexed(self) -> int:
        """Packets that the container's index names, less empty ones; 0 where it has no whole index."""
        entries = self.stream.index_entries
        whole = len(entries) >= self.stream.frames > 0
        return sum(entry.size > 0 for entry in entries) if whole else 0

    def ended_early(self) -> bool:
        """Whether frames are still to come by the container's index, or else by its size and duration."""
        entries = self.stream.index_entries
        if len(entries) >= self.stream.frames > 0:
            return self.n_packets < len(entries) and self._last_position < entries[len(entries) - 1].pos
        size, duration_s = self.container.size, self.duration_s
        is_late = duration_s is None or self._last_time_s > 0.95 * duration_s - 1
        if size > 0:
            return self.error is not None or (self._last_position < 0.98 * size and not is_late)
        # a server that doesn't say how much is to come: its end looks like a lost connection
        return self.error is not None and not is_late

    def close(self) -> None:
        """End reading; a read that blocks in another thread closes the container when it returns."""
        self._stop = True
        if self._in_use.acquire(timeout=0.5):
            try:
                self.container.close()
            finally:
                self._in_use.release()

    @staticmethod
    def _open(url: str, how: dict[str, Any], trust: Trust | None) -> Any:
        try:
            return av.open(url, **how)
        except ERRORS:
            if not url.startswith("https:") or trust is None or trust.insecure:
                raise
            # a playlist perhaps: Python fetches its parts, and verifies each one's host
            how["options"] = {"http_persistent": "0", "format_whitelist": "hls,mpegts,mov,mp4,aac"}
            try:
                return av.open(url, io_open=https_opener(trust), **how)
            except ERRORS:
                pass
            raise

    def _choose_stream(self) -> Any:
        name, container = self._name, self.container
        kind = container.format.name
        self.may_be_single = kind == "jpeg_pipe" and container.size <= 0  # a stream of JPEGs has no length
        if not self.may_be_single:
            formats.require_video(name, kind, container.format.long_name)
        formats.require_not_heif(name, container.metadata.get("major_brand", ""))
        videos = [
            s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic
        ]
        if not videos:
            what = "only sound and a cover picture" if container.streams.video else "only sound"
            if not container.streams.audio:
                what = "nothing that is known"
            raise SourceError(f"{name}: no video in it, {what}")
        best = container.streams.best("video")
        stream = best if best in videos else videos[0]
        if stream.codec_context is None:
            raise SourceError(
                f"{name}: no decoder here for its video", hint="convert it to H.264, such as by ffmpeg"
            )
        if len(videos) > 1 and not formats.has_variants(kind):
            number = videos.index(stream) + 1
            log.warning("%s: holds %d videos; number %d is taken", name, len(videos), number)
        if stream.codec_context.color_trc in _HDR_TRANSFERS:
            log.warning("%s: an HDR video, taken as it is: its colours are paler than those of photos", name)
        return stream

    def _frames(self) -> Iterator[Any]:
        """Decoded frames in their order, and None for each that could not be."""
        packets = self.container.demux(self.stream)
        while True:
            with self._in_use:
                if self._stop:
                    self.container.close()
                    return
                try:
                    packet = next(packets, None)
                except ERRORS as error:
                    self.error = getattr(error, "strerror", None) or "the connection was lost"
                    packet = None
                frames, is_last = self._decoded(packet)
            yield from frames
            if is_last:
                return

    def _decoded(self, packet: Any) -> tuple[list[Any], bool]:
        """A packet's frames; no packet stands for the end, which lets out what the decoder still holds."""
        is_last = packet is None
        if packet is not None and packet.dts is None and packet.pts is None and not packet.size:
            is_last = True  # PyAV's own sign of the end
        elif packet is not None:
            if not packet.size:
                return [], False  # AVI's sign of a frame that was dropped
            self.n_packets += 1
            self._last_position = max(self._last_position, packet.pos or 0)
        try:
            return self.stream.codec_context.decode(None if is_last else packet), is_last
        except av.error.EOFError:
            return [], is_last
        except ERRORS:
            return [None], is_last

    def _picture(self, frame: Any) -> Pixels:
        picture: Any = self._reformatter.reformat(frame, format="bgr24").to_ndarray()
        turn = _TURNS.get(round(frame.rotation)) if frame.rotation else None
        if turn is not None:
            picture = cv2.rotate(picture, turn)
        upright: Pixels = np.ascontiguousarray(picture)
        return upright
