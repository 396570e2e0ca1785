"""A window on the screen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import cv2

from sdk.arrays import Pixels
from sdk.errors import SinkError
from sdk.host.children import python_code
from sdk.result import Result
from sdk.sinks.annotate import annotate, annotate_regions
from sdk.sinks.base import Sink
from sdk.sources import Frame

_QUIT_KEYS = (ord("q"), 27)  # 27 is Escape
_NO_KEY = -1
_WAIT_MS = 50  # for a key, where Ctrl-C and the closing of the window are to be noticed
_TRIAL_S = 20.0


class Window(Sink):
    """Shows the annotated frames; ``q``, Escape or closing it ends the loop.

    Args:
        title: of the window.
        pause: show every frame until a key is pressed, as pictures want it.
    """

    on_main_thread = True

    def __init__(self, title: str = "edge-purify", *, pause: bool = False) -> None:
        self._title = title
        self._pause = pause
        self._is_open = False

    def open(self) -> None:
        variables = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
        if sys.platform == "linux" and not any(os.environ.get(name) for name in variables):
            raise SinkError(
                "--show: there is no display here (DISPLAY is not set)", hint="use --save instead"
            )
        _require_display()
        try:
            cv2.namedWindow(self._title, cv2.WINDOW_AUTOSIZE)
        except cv2.error:
            raise SinkError(
                "--show: this OpenCV is built without windows (headless)", hint="use --save instead"
            ) from None
        self._is_open = True

    def write(self, frame: Frame, result: Result) -> None:
        self._show(annotate(frame.image, result, frame.roi))

    def write_regions(self, frame: Frame, results: Sequence[Result]) -> None:
        self._show(annotate_regions(frame, results))

    def _show(self, picture: Pixels) -> None:
        cv2.imshow(self._title, picture)
        key = self._key(1)
        while self._pause and key == _NO_KEY and not self.done:
            key = self._key(_WAIT_MS)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            with suppress(cv2.error):  # the user may have closed it
                cv2.destroyWindow(self._title)

    def _key(self, wait_ms: int) -> int:
        key: int = cv2.waitKey(wait_ms)
        is_closed = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) == 0  # -1: GTK can't tell
        self.done = self.done or is_closed or (key != _NO_KEY and key & 0xFF in _QUIT_KEYS)
        return key


def _require_display() -> None:
    """Try a window in another process: where DISPLAY names a display that is gone, Qt ends the process."""
    trial = python_code("import cv2; cv2.namedWindow('trial'); cv2.destroyAllWindows()")
    try:
        done = subprocess.run(trial, capture_output=True, timeout=_TRIAL_S, check=False)
    except subprocess.TimeoutExpired:
        raise SinkError(f"--show: no window within {_TRIAL_S:.0f} s", hint="use --save instead") from None
    if done.returncode < 0:  # by a signal: an exception of OpenCV's has a message, and comes again
        raise SinkError(
            "--show: the display can't be reached",
            hint=f"check DISPLAY (now {os.environ.get('DISPLAY', 'not set')}), or use --save instead",
        )
