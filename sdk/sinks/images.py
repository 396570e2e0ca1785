"""Annotated pictures in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import cv2

from sdk.arrays import Pixels
from sdk.errors import SinkError
from sdk.files import remove_stale_parts, require_writable, write_atomically
from sdk.result import Result
from sdk.sinks.annotate import annotate, annotate_regions
from sdk.sinks.base import Sink, unwritable
from sdk.sources import Frame

MAX_STEM_BYTES = 200  # a file's name has 255


class AnnotatedImages(Sink):
    """Every annotated frame as a PNG in a folder, named after its source and index: ``clip-000012.png``."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def open(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SinkError(f"{self.folder}: can't be a folder for pictures: {reason}") from None
        remove_stale_parts(self.folder)
        trial = self.folder / "trial.png"
        try:
            require_writable(trial)
        except OSError as error:
            raise unwritable(trial, error, hint="check the folder and its rights") from None

    def write(self, frame: Frame, result: Result) -> None:
        self._save(annotate(frame.image, result, frame.roi), frame)

    def write_regions(self, frame: Frame, results: Sequence[Result]) -> None:
        self._save(annotate_regions(frame, results), frame)

    def _save(self, picture: Pixels, frame: Frame) -> None:
        stem = re.sub(r"[^\w.-]+", "-", Path(frame.source).stem)
        stem = stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore").strip("-") or "frame"
        path = self.folder / f"{stem}-{frame.index:06d}.png"
        png = cv2.imencode(".png", picture)[1].tobytes()
        try:
            write_atomically(path, png, durable=False)  # a flush for each frame would slow the loop
        except OSError as error:
            raise unwritable(path, error) from None
