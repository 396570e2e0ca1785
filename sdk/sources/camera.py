"""Local cameras: V4L2 devices by number or path, and a Jetson's CSI cameras."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import cv2

from sdk.errors import SourceError
from sdk.sources.live import PATIENCE_S, Live
from sdk.sources.source import in_background

_CSI_PIPELINE = (
    "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM), width=1280, height=720, format=NV12,"
    " framerate=30/1 ! nvvidconv ! video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR"
    " ! appsink drop=true max-buffers=1 sync=false"
)


def open_camera(camera: int | str, patience_s: float = PATIENCE_S) -> Live:
    """Open a local camera by number or device path; with infinite patience, also again when it is lost.

    Raises:
        SourceError: there is none, or it can't be opened; names the cameras there are.
    """
    digits = str(camera).removeprefix("/dev/video")
    if not re.fullmatch("[0-9]{1,9}", digits):  # OpenCV takes a C int
        raise SourceError(f"camera {camera}: expected a number from 0, or a device such as /dev/video0")
    number, name = int(digits), f"camera {digits}"
    backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY

    def connect() -> Any:
        capture = cv2.VideoCapture(number, backend)
        if capture.isOpened():
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture

    capture = in_background(connect)
    if not capture.isOpened():
        what, hint = _why_no_camera(number)
        raise SourceError(f"{name}: {what}", hint=hint)
    return Live(name, capture, reconnect=connect if patience_s == math.inf else None, patience_s=patience_s)


def open_csi(url: str) -> Live:
    """Open a Jetson's CSI camera, ``csi://N``.

    Raises:
        SourceError: no such camera, or this OpenCV has no GStreamer.
    """
    sensor = url.partition("://")[2].rstrip("/")
    if not (sensor.isascii() and sensor.isdecimal()):
        raise SourceError(f"{url}: expected csi:// and a sensor's number, such as csi://0")
    if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        raise SourceError(
            f"{url}: this OpenCV ({cv2.__version__}) has no GStreamer, which CSI cameras need",
            hint="on a Jetson, remove pip's opencv-python so that JetPack's own is found",
        )
    pipeline = _CSI_PIPELINE.format(sensor=sensor)
    capture = in_background(lambda: cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER))
    if not capture.isOpened():
        raise SourceError(
            f"{url}: the camera can't be opened",
            hint="check its cable, and 'systemctl restart nvargus-daemon'",
        )
    return Live(url, capture)


def _why_no_camera(number: int) -> tuple[str, str]:
    """What is wrong with a camera, and what to do about it."""
    devices = sorted(
        int(path.name[5:]) for path in Path("/dev").glob("video[0-9]*") if path.name[5:].isdecimal()
    )
    if number in devices:
        return "can't be opened", "does another program hold it, and is this user in the group 'video'?"
    if not devices:
        return "no such camera", "this machine has none, plug one in or give --source a file"
    return "no such camera", f"this machine has {', '.join(map(str, devices))} (some may not be cameras)"
