"""The window: keys, closing, and displays that are absent."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from sdk.errors import SinkError
from sdk.sinks import (
    Window,
    window,
)
from tests.sdk.conftest import make_frame, make_result


class Screen:
    """OpenCV's windows, by a script of what ``waitKey`` gives; None is the user who closes the window."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keys: list[int | None]) -> None:
        self.keys, self.n_shown, self.is_open = keys, 0, True
        for name in ("imshow", "waitKey", "getWindowProperty"):
            monkeypatch.setattr(cv2, name, getattr(self, name))

    def imshow(self, title: str, picture: np.ndarray) -> None:
        self.n_shown += 1

    def waitKey(self, wait_ms: int) -> int:
        key = self.keys.pop(0)
        self.is_open = key is not None
        return -1 if key is None else key

    def getWindowProperty(self, title: str, prop: int) -> float:
        return 1.0 if self.is_open else 0.0


@pytest.mark.parametrize(
    ("pause", "keys", "n_done"),
    [
        (False, [-1, -1, ord("x"), ord("q")], 4),
        (False, [-1, None], 2),
        (True, [-1, -1, ord(" "), -1, 27], 2),
        (True, [-1, -1, None], 1),
    ],
)
def test_window_ends_by_key_or_by_being_closed_and_pictures_wait(
    *, pause: bool, keys: list[int | None], n_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, shown = Screen(monkeypatch, list(keys)), Window(pause=pause)
    while not shown.done:
        shown.write(make_frame(), make_result())
    assert (screen.n_shown, screen.keys) == (n_done, [])


def test_window_on_a_display_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":63")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match=r"--show: .* use --save instead"):
        Window().open()


def test_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform != "linux":
        pytest.skip("other systems have a display without a variable that says so")
    with pytest.raises(SinkError, match=r"--show: there is no display here .* use --save instead"):
        Window().open()


def test_window_of_a_headless_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise cv2.error("The function is not implemented. Rebuild the library with GTK+ support.")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(window, "_require_display", lambda: None)
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(SinkError, match=r"--show: this OpenCV is built without windows"):
        Window().open()
