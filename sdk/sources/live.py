"""Live sources: cameras and network streams, of which only the newest frame is worth a purifier's time.

A thread grabs frames as they come and keeps the last one; whoever iterates gets that, and what came while it
was busy is dropped.  Without it the driver's or FFmpeg's hidden buffer would fill, and delay every result.

A stream that is lost is opened again, at growing intervals; a camera that is lost is an error.  Opening
happens on a thread as well, so that Ctrl-C works while a host doesn't answer.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cv2

from sdk.errors import SourceError
from sdk.sources.source import Frame, Source, frame_rate
from sdk.sources.video import Video, log

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "srt")
OPEN_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 10.0
PATIENCE_S = 60.0  # how long a lost stream may stay away
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 10.0

_STREAM_OPTIONS = [
    cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(OPEN_TIMEOUT_S * 1e3),
    cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ_TIMEOUT_S * 1e3),
]  # fmt: skip
_CSI_PIPELINE = (
    "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM), width=1280, height=720, format=NV12,"
    " framerate=30/1 ! nvvidconv ! video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR"
    " ! appsink drop=true max-buffers=1 sync=false"
)

Connect = Callable[[], Any]  # opens a cv2.VideoCapture


class Live(Source):
    """The newest frame of a camera or stream.

    Args:
        name: what messages and frames call it.
        capture: an open ``cv2.VideoCapture``; this object owns it.
        reconnect: opens it anew when it is lost; None where that is an error at once.
        patience_s: how long to try, from the last frame on.
        first_retry_s: the wait before the first try; it doubles up to ``LONGEST_RETRY_S``.
    """

    live = True

    def __init__(
        self,
        name: str,
        capture: Any,
        *,
        reconnect: Connect | None = None,
        patience_s: float = PATIENCE_S,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        self.name = name
        self.fps = frame_rate(capture)
        self._reconnect = reconnect
        self._patience_s = patience_s
        self._first_retry_s = first_retry_s
        self._began = self._last_frame = time.monotonic()
        self._n_grabbed = 0
        self._newest: Frame | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._changed = threading.Condition()  # guards the three above
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._grab, args=(capture,), name=f"grab {name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended)
                frame, self._newest = self._newest, None
            if frame is None or self._stop.is_set():
                break
            yield frame
        if self._error is not None and not self._stop.is_set():
            raise self._error

    def close(self) -> None:
        self._stop.set()
        self._end(None)
        self._thread.join(timeout=1.0)  # one that sits in a read returns by its time-out, and then releases

    def _grab(self, capture: Any) -> None:
        try:
            while capture is not None:
                reason = self._read_until_lost(capture)
                capture.release()
                capture = self._connect_again(reason)
            self._end(None)
        except BaseException as error:
            self._end(error)

    def _read_until_lost(self, capture: Any) -> str:
        while not self._stop.is_set():
            asked = time.monotonic()
            readable, image = capture.read()
            now = time.monotonic()
            if not readable:
                timed_out = now - asked > 0.9 * READ_TIMEOUT_S
                return f"no frame for {now - asked:.0f} s" if timed_out else "the connection ended"
            self._last_frame = now
            frame = Frame(image, self._n_grabbed, self.name, now - self._began)
            self._n_grabbed += 1
            with self._changed:
                self._newest = frame
                self._changed.notify_all()
        return "closed"

    def _connect_again(self, reason: str) -> Any | None:
        """An open capture, or None once closed."""
        if self._stop.is_set():
            return None
        if self._reconnect is None:
            raise SourceError(
                f"{self.name}: lost after {self._n_grabbed} frames, {reason}; is it still plugged in?"
            )
        log.warning("%s: %s; connecting again", self.name, reason)
        wait_s = self._first_retry_s
        while not self._stop.wait(wait_s):
            if time.monotonic() - self._last_frame > self._patience_s:
                raise SourceError(
                    f"{self.name}: lost after {self._n_grabbed} frames, {reason}, and not back within "
                    f"{self._patience_s:.0f} s; check the sender and the network"
                )
            capture = self._reconnect()
            if capture.isOpened():
                return capture
            wait_s = min(2 * wait_s, LONGEST_RETRY_S)
        return None

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._error = self._error or error
            self._ended = True
            self._changed.notify_all()


def open_camera(camera: int | str) -> Live:
    """Open a local camera by number or device path.

    Raises:
        SourceError: there is none, or it can't be opened; names the cameras there are.
    """
    digits = str(camera).removeprefix("/dev/video")
    if not re.fullmatch("[0-9]{1,9}", digits):  # OpenCV takes a C int
        raise SourceError(f"camera {camera}: expected a number from 0, or a device such as /dev/video0")
    number, name = int(digits), f"camera {digits}"
    backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
    capture = _open_interruptibly(lambda: cv2.VideoCapture(number, backend))
    if not capture.isOpened():
        raise SourceError(f"{name}: {_why_no_camera(number)}")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return Live(name, capture)


def open_stream(url: str) -> Source:
    """Open a network stream, a video on a web server (every frame, if its length is known), or ``csi://N``.

    Raises:
        SourceError: an unknown scheme, or nothing that can be read there; the URL's password is masked.
    """
    scheme, name = url.partition("://")[0].lower(), redact(url)
    if scheme == "csi":
        return _open_csi(url)
    if scheme not in STREAM_SCHEMES:
        raise SourceError(f"{name}: expected a URL of {', '.join(STREAM_SCHEMES)} or csi, got {scheme}")

    def connect() -> Any:
        return cv2.VideoCapture(url, cv2.CAP_FFMPEG, _STREAM_OPTIONS)

    capture = _open_interruptibly(connect)
    if not capture.isOpened():
        raise SourceError(
            f"{name}: no video there; check address, user and password, and that this machine reaches it"
        )
    if scheme.startswith("http") and capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        return Video(name, capture, None)
    return Live(name, capture, reconnect=connect)


def redact(url: str) -> str:
    """The URL less what may be a secret: user and password, and whatever follows a ``=``."""
    url = re.sub(r"://[^/?]*@", "://***@", url)  # up to the last @, since a password may hold one
    url = re.sub(r"=[^&\s]*", "=***", url)
    return re.sub(r"://.*@", "://***@", url)  # or a slash


def _open_csi(url: str) -> Live:
    sensor = url.partition("://")[2].rstrip("/")
    if not (sensor.isascii() and sensor.isdecimal()):
        raise SourceError(f"{url}: expected csi:// and a sensor's number, such as csi://0")
    if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        raise SourceError(
            f"{url}: this OpenCV ({cv2.__version__}) has no GStreamer, which CSI cameras need; on a Jetson, "
            "remove pip's opencv-python so that JetPack's own is found"
        )
    pipeline = _CSI_PIPELINE.format(sensor=sensor)
    capture = _open_interruptibly(lambda: cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER))
    if not capture.isOpened():
        raise SourceError(
            f"{url}: the camera can't be opened; check its cable, and 'systemctl restart nvargus-daemon'"
        )
    return Live(url, capture)


def _open_interruptibly(connect: Connect) -> Any:
    """Run ``connect`` on a thread and wait for it where Ctrl-C gets through; inside OpenCV it doesn't."""
    opened: Future[Any] = Future()

    def run() -> None:
        try:
            opened.set_result(connect())
        except BaseException as error:
            opened.set_exception(error)

    threading.Thread(target=run, name="connect", daemon=True).start()
    return opened.result()


def _why_no_camera(number: int) -> str:
    devices = sorted(
        int(path.name[5:]) for path in Path("/dev").glob("video[0-9]*") if path.name[5:].isdecimal()
    )
    if number in devices:
        return "can't be opened; does another program hold it, and is this user in the group 'video'?"
    if not devices:
        return "no such camera; this machine has none, plug one in or give --source a file"
    return f"no such camera; this machine has {', '.join(map(str, devices))} (some may not be cameras)"
