"""Messages of OpenCV and its FFmpeg, kept off stderr: the error that is raised says what went wrong."""

from __future__ import annotations

import os

import cv2


def quiet_opencv() -> None:
    """Silence OpenCV and its FFmpeg, unless the user asked for their logs by their environment variables.

    FFmpeg's level is read when OpenCV opens its first video, so call this before that.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
