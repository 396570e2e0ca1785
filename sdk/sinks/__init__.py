"""Where results go: an annotated video, annotated pictures, JSON lines, a window.

    with AnnotatedVideo("out.mp4", fps=25) as sink:
        sink.write(frame, result)

Entering a sink proves that it can be written, so that a wrong path costs no work.  A file is written under
another name beside its own and gets that name when it is complete: on closing, also after Ctrl-C or an error,
if at least one frame is in it; otherwise nothing is left, and a file that was there before stays.
"""

from __future__ import annotations

import os
from pathlib import Path

from sdk.errors import UsageError
from sdk.sinks.base import Sink
from sdk.sinks.images import AnnotatedImages
from sdk.sinks.json_lines import JsonLines
from sdk.sinks.video import VIDEO_CODECS, AnnotatedVideo
from sdk.sinks.window import Window

__all__ = ["VIDEO_CODECS", "AnnotatedImages", "AnnotatedVideo", "JsonLines", "Sink", "Window", "open_save"]


def open_save(path: str | os.PathLike[str], fps: float | None, *, real_time: bool = False) -> Sink:
    """The sink that ``--save PATH`` means: a video by its suffix, or a folder of pictures.

    Raises:
        UsageError: a suffix that is neither.
    """
    suffix = Path(path).suffix.lower()
    if suffix in VIDEO_CODECS:
        return AnnotatedVideo(path, fps=fps or 10.0, real_time=real_time)
    if suffix and not os.path.isdir(path):  # noqa: PTH112 - Path's own raises where the folder can't be read
        raise UsageError(
            f"--save {path}: expected a video's suffix ({', '.join(VIDEO_CODECS)}) "
            f"or a folder for pictures, got {suffix}"
        )
    return AnnotatedImages(path)
