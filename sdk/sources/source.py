"""Frame, and Source: the interface of everything that gives frames."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from sdk.arrays import Pixels
from sdk.sources.roi import Roi
from sdk.sources.state import Observer, SourceEvent, SourceState

MAX_FPS = 1000.0  # streams that don't know their rate give their clock's, such as 90000

_Self = TypeVar("_Self", bound="Source")
T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        image: ``(H, W, 3)`` uint8, BGR.
        index: its number in the source, from 0; a live source's gaps are frames that nobody asked for.
        source: the file, camera or stream it comes from; a URL is reduced to scheme and host.
        time_s: seconds since the source's beginning; None for pictures, which have no time.
        roi: the part of the picture that is to be purified; None is all of it, or several.
        rois: the parts of the picture that are to be purified, each by itself; empty is the whole picture.
        source_index: which of the sources of a run it comes from, in the order that they were given.
        error: why there is no picture, where the source skips what it can't read; ``image`` is black then.
    """

    image: Pixels
    index: int
    source: str
    time_s: float | None = None
    roi: Roi | None = None
    rois: tuple[Roi, ...] = ()
    error: str | None = None
    source_index: int = 0

    @property
    def region(self) -> Pixels:
        """The one part that is to be purified, ``(H, W, 3)``: a view of ``image``."""
        return self.image if self.roi is None else self.roi.crop(self.image)

    @property
    def regions(self) -> list[Pixels]:
        """Every part that is to be purified, each ``(H, W, 3)``: views of ``image``."""
        return [roi.crop(self.image) for roi in self.rois] if self.rois else [self.region]


class Source(ABC):
    """Frames, once through: iterate it one time, and close it or use it as a context manager.

    Attributes:
        name: what a message calls it.
        live: whether it gives the newest frame (True) or every frame.
        total: the number of frames to expect, None where nobody knows; an estimate for some video containers.
        fps: frames a second, None where there is no such thing.
        state: what it is doing, as last reported.
        files: that it reads, so that nobody writes to them meanwhile; none for cameras and streams.
    """

    name: str
    files: Sequence[Path] = ()
    live: bool = False
    total: int | None = None
    fps: float | None = None
    state: SourceState = SourceState.CONNECTING
    _observer: Observer | None = None

    def observe(self, observer: Observer | None) -> None:
        """Report the state, and every change of it from now on, to ``observer``; None ends that."""
        self._observer = observer
        if observer is not None and self.state is not SourceState.CONNECTING:
            observer(SourceEvent(self.name, self.state))

    def report(self, state: SourceState, reason: str | None = None) -> None:
        """Note a state; the observer hears of it if it is another one, and nothing follows the last one."""
        if state is self.state or self.state in (SourceState.ENDED, SourceState.FAILED):
            return
        self.state = state
        if self._observer is not None:
            self._observer(SourceEvent(self.name, state, reason))

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
    import cv2  # here alone, so that a missing OpenCV is named where frames are prepared

    return sane_rate(float(capture.get(cv2.CAP_PROP_FPS)))


def sane_rate(fps: float | None) -> float | None:
    """``fps``, or None where it can't be a frame rate."""
    return fps if fps is not None and 0 < fps <= MAX_FPS else None


def in_background(work: Callable[[], T]) -> T:
    """The result of ``work``, done on a thread: Ctrl-C gets through while a host or a pipe doesn't answer."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="connect", daemon=True).start()
    return done.result()
