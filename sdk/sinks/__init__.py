"""Where results go: an annotated video, annotated pictures, JSON lines, a window.

    with AnnotatedVideo("out.mp4", fps=25) as sink:
        sink.write(frame, result)

Entering a sink proves that it can be written, so that a wrong path costs no work. A file appears with the
first frame and can be followed or played while it grows, also after a crash. Without a frame nothing is
left, and a file that was there before stays.
"""

from __future__ import annotations

import os
from pathlib import Path

from sdk.errors import UsageError
from sdk.sinks._encoders import VIDEO_CODECS
from sdk.sinks.base import Sink
from sdk.sinks.images import AnnotatedImages
from sdk.sinks.json_lines import JsonLines
from sdk.sinks.video import AnnotatedVideo
from sdk.sinks.watchdog import Watchdog
from sdk.sinks.window import Window

__all__ = [
    "VIDEO_CODECS",
    "AnnotatedImages",
    "AnnotatedVideo",
    "JsonLines",
    "Sink",
    "Watchdog",
    "Window",
    "open_save",
]

DEFAULT_FPS = 10.0  # where the source doesn't know its rate


def open_save(path: str | os.PathLike[str], fps: float | None) -> Sink:
    """The sink that ``--save PATH`` means: a video by its suffix, or a folder of pictures.

    A slash at the end makes it a folder, whatever its suffix.

    Raises:
        UsageError: a suffix that is neither.
    """
    suffix = Path(path).suffix.lower()
    is_folder = os.fspath(path).endswith(("/", os.sep)) or os.path.isdir(path)  # noqa: PTH112 - Path's own raises where the folder can't be read
    if suffix in VIDEO_CODECS and not is_folder:
        return AnnotatedVideo(path, fps=fps or DEFAULT_FPS)
    if suffix and not is_folder:
        raise UsageError(
            f"--save {path}: expected a video's suffix ({', '.join(VIDEO_CODECS)}) "
            f"or a folder for pictures, got {suffix}",
            hint=f"write {path}/ for a folder of that name",
        )
    return AnnotatedImages(path)
