"""Open a source of frames by what it is called: a camera, a stream, a video, a picture, a folder or glob."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sdk.errors import SourceError
from sdk.sources import live, pictures
from sdk.sources.opencv import quiet_opencv
from sdk.sources.roi import Roi
from sdk.sources.source import Frame, Source
from sdk.sources.state import Observer
from sdk.sources.video import open_video


def open_source(spec: int | str | os.PathLike[str], *, roi: Roi | Sequence[Roi] | None = None) -> Source:
    """Open a source of frames.

    Args:
        spec: a camera's number (``0`` or ``"0"``) or device (``/dev/video0``); a video or picture file; a
            folder of pictures, in natural order, or a glob (quote it from the shell); ``rtsp://…``,
            ``http://…`` and the like; ``csi://0``, a Jetson's CSI camera.
        roi: the part of every frame that is to be purified, or several, each to be purified by itself.

    Raises:
        SourceError: there is no such thing, it can't be opened, or it holds no frame.
    """
    try:
        source = _open(spec)
    except OSError as error:
        raise SourceError(f"{spec}: can't be read: {error.strerror}") from None
    rois = (roi,) if isinstance(roi, Roi) else tuple(roi or ())
    return WithRoi(source, rois) if rois else source


class WithRoi(Source):
    """Another source's frames, each with its regions of interest.

    Iterating it raises a UsageError at the first frame that a region does not lie in.
    """

    def __init__(self, source: Source, rois: Sequence[Roi]) -> None:
        self.name, self.live, self.total, self.fps = source.name, source.live, source.total, source.fps
        self._source = source
        self._rois = tuple(rois)

    def __iter__(self) -> Iterator[Frame]:
        only = self._rois[0] if len(self._rois) == 1 else None
        for frame in self._source:
            for roi in self._rois:
                roi.check(frame.image, frame.source)
            yield replace(frame, roi=only, rois=self._rois)

    def observe(self, observer: Observer | None) -> None:
        self._source.observe(observer)

    def close(self) -> None:
        self._source.close()


def _open(spec: int | str | os.PathLike[str]) -> Source:
    quiet_opencv()
    if isinstance(spec, int):
        return live.open_camera(spec)
    text = os.fspath(spec)
    if isinstance(spec, str):
        if text.isascii() and text.isdecimal():
            return live.open_camera(text)
        if "://" in text:
            return live.open_stream(text)
    device = os.path.realpath(text)  # udev's names, such as /dev/v4l/by-id/…, are links
    if device.startswith("/dev/video"):
        return live.open_camera(device)
    return _open_path(text)


def _open_path(text: str) -> Source:
    path = Path(text)
    if path.is_dir():
        return pictures.of_folder(path)
    if path.exists():
        is_picture = path.suffix.lower() in pictures.PICTURE_SUFFIXES
        return pictures.Pictures(text, [path]) if is_picture else open_video(path)
    if glob.has_magic(text):
        return pictures.of_glob(text)
    raise SourceError(
        f"{text}: no such file or folder; give a camera number, video, picture, folder, glob or URL"
    )
