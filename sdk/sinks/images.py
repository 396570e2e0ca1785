"""Annotated pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2

from sdk.errors import SinkError
from sdk.files import Unfinished
from sdk.result import Result
from sdk.sinks.annotate import annotate
from sdk.sinks.base import Sink
from sdk.sources import Frame


class AnnotatedImages(Sink):
    """Every annotated frame as a PNG in a folder, named after its source and index: ``clip-000012.png``."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def open(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"{self.folder}: can't be a folder for pictures: {error.strerror}") from None
        trial = Unfinished(self.folder / "trial.png")
        trial.create()
        trial.discard()

    def write(self, frame: Frame, result: Result) -> None:
        stem = re.sub(r"[^\w.-]+", "-", Path(frame.source).stem).strip("-") or "frame"
        file = Unfinished(self.folder / f"{stem}-{frame.index:06d}.png")
        try:
            file.part.write_bytes(cv2.imencode(".png", annotate(frame.image, result, frame.roi))[1].tobytes())
        except OSError as error:
            file.discard()
            raise file.unwritable(error) from None
        file.finish()
