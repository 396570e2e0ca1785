"""Live sources: cameras and network streams, of which only the newest frame is worth a purifier's time.

A thread grabs frames as they come and keeps the last one: iterating gives that one, and older frames are
dropped. Without it the driver's or FFmpeg's hidden buffer would fill, and delay every result. A stream
that is lost is opened again, at growing intervals; a camera that is lost is an error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from sdk.errors import SourceError
from sdk.sources.source import Frame, Source, frame_rate
from sdk.sources.state import SourceState
from sdk.sources.stream import READ_TIMEOUT_S

log = logging.getLogger("sdk.sources")

PATIENCE_S = 60.0  # how long a lost stream may stay away
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 10.0
MAX_SINGLE_PICTURES = 3  # connections in a row that give one frame each: a snapshot, not a stream
_POLL_S = 0.25
STALLED_S = 2.0  # without a frame, a source isn't live; slower ones are given three of their frames' time

Connect = Callable[[], Any]  # opens a capture, with the methods of cv2.VideoCapture


class Live(Source):
    """The newest frame of a camera or stream.

    Args:
        name: what messages and frames call it.
        capture: an open ``cv2.VideoCapture``, or what has its methods; this object owns it. None where it
            could not be opened yet, and ``reconnect`` is to go on trying.
        reconnect: opens it again when it is lost; None where that is an error at once.
        patience_s: how long to try, from the last frame on; infinity is for ever.
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
        self.fps = None if capture is None else frame_rate(capture)
        self._stalled_s = max(STALLED_S, 3 / self.fps if self.fps else 0.0)
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
            frame = self._next()
            if frame is None or self._stop.is_set():
                break
            yield frame
        if self._error is not None and not self._stop.is_set():
            raise self._error

    def _next(self) -> Frame | None:
        """The newest frame as soon as there is one; None at the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended, timeout=_POLL_S)
                frame, self._newest = self._newest, None
                ended = self._ended
            if frame is not None or ended:
                return frame
            silent_s = time.monotonic() - self._last_frame
            if self.state is SourceState.LIVE and silent_s > self._stalled_s:
                self.report(SourceState.STALLED, f"no frame for {silent_s:.1f} s")

    def close(self) -> None:
        self._stop.set()
        self._end(None)
        self._thread.join(timeout=1.0)  # one that sits in a read returns by its time-out, and then releases

    def _grab(self, capture: Any) -> None:
        n_short = 0
        try:
            if capture is None:
                capture = self._connect_again("it can't be opened")
            while capture is not None:
                before = self._n_grabbed
                reason = self._read_until_lost(capture)
                capture.release()
                n_short = n_short + 1 if self._n_grabbed == before + 1 else 0
                if n_short == MAX_SINGLE_PICTURES:
                    raise SourceError(
                        f"{self.name}: a single picture at a time, {n_short} times in a row, not a video",
                        hint="give the camera's stream, not its snapshot",
                    )
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
            self.report(SourceState.LIVE)
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
                f"{self.name}: lost after {self._n_grabbed} frames, {reason}", hint="is it still plugged in?"
            )
        log.warning("%s: %s; connecting again", self.name, reason)
        self.report(SourceState.CONNECTING, reason)
        wait_s = self._first_retry_s
        while not self._stop.wait(wait_s):
            if time.monotonic() - self._last_frame > self._patience_s:
                raise SourceError(
                    f"{self.name}: lost after {self._n_grabbed} frames, {reason}, and not back within "
                    f"{self._patience_s:.0f} s",
                    hint="check the sender and the network",
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
