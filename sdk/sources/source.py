"""A frame, and what a source of frames is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from sdk.sources.roi import Roi

MAX_FPS = 1000.0  # streams that don't know their rate give their clock's, such as 90000

_Self = TypeVar("_Self", bound="Source")


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        image: ``(H, W, 3)`` uint8, BGR.
        index: its number in the source, from 0; a live source's gaps are frames that nobody asked for.
        source: the file, camera or stream it comes from; a stream's password is masked.
        time_s: seconds since the source's beginning; None for pictures, which have no time.
        roi: the part of the picture that is to be purified; None is all of it.
    """

    image: npt.NDArray[np.uint8]
    index: int
    source: str
    time_s: float | None = None
    roi: Roi | None = None

    @property
    def region(self) -> npt.NDArray[np.uint8]:
        """What is to be purified, ``(H, W, 3)``: a view of ``image``."""
        return self.image if self.roi is None else self.roi.crop(self.image)


class Source(ABC):
    """Frames, once through: iterate it one time, and close it or use it as a context manager.

    Attributes:
        name: what a message calls it.
        live: whether it gives the newest frame (True) or every frame.
        total: the number of frames to expect, None where nobody knows; an estimate for some video containers.
        fps: frames a second, None where there is no such thing.
    """

    name: str
    live: bool = False
    total: int | None = None
    fps: float | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            SourceError: the source is damaged or lost; every frame before that has been yielded.
        """

    def close(self) -> None:  # noqa: B027 - pictures hold nothing open
        """Release the source; iterating it ends."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def frame_rate(capture: Any) -> float | None:
    """Frames a second as a ``cv2.VideoCapture`` has it; None where it can't be that."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps <= MAX_FPS else None
