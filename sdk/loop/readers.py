"""The reading stage of the loop: one or several sources, each read on a thread, that take turns.

A recorded source is read ahead by a few frames. Of a live one, the newest frame waits for its turn: older
ones are dropped. Every source that has a frame ready gets a turn before any other gets its second, so neither
a fast file nor a slow camera keeps the others from theirs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType

from sdk.errors import EdgePurifyError
from sdk.loop.writer import QUEUE_LENGTH, join
from sdk.meter import Meter
from sdk.sources import Frame, Source, SourceState

STUCK_S = 2.0  # a thread that sits longer in a read, as of a pipe, is left to end with the process


class Readers:
    """Frames of several sources with the name of the source that each comes from.

    Args:
        sources: open, and closed by the caller.
        names: of the sources in this run, distinct.
        meter: takes the time that reading a frame took.
        keep: whether the others go on when one fails.
    """

    def __init__(self, sources: Sequence[Source], names: Sequence[str], meter: Meter, *, keep: bool) -> None:
        self._meter = meter
        self._keep = keep
        self._changed = threading.Condition()
        self._lanes = [
            _Lane(source, name, i if len(sources) > 1 else None, self._changed)
            for i, (source, name) in enumerate(zip(sources, names, strict=True))
        ]
        # a single live source has a thread already, and its newest frame is taken when it is wanted
        self._direct = self._lanes[0] if len(sources) == 1 and sources[0].live else None

    def __enter__(self) -> Readers:
        if self._direct is None:
            for lane in self._lanes:
                lane.start(self._meter)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._direct is not None:
            return
        for lane in self._lanes:
            lane.stop()
        for lane in self._lanes:
            join(lane.thread, STUCK_S)

    def __iter__(self) -> Iterator[tuple[str, Frame]]:
        if self._direct is not None:
            yield from self._of_one_live()
            return
        failures: list[BaseException] = []
        waiting = deque(self._lanes)  # whose turn is next comes first
        while waiting:
            with self._changed:
                self._changed.wait_for(lambda: any(lane.items or lane.closed for lane in waiting))
                lane = next(lane for lane in waiting if lane.items or lane.closed)
                frame = lane.items.popleft() if lane.items else None
                self._changed.notify_all()
            waiting.remove(lane)
            if frame is not None:
                waiting.append(lane)
                yield lane.name, frame
                continue
            lane.report_end()  # behind its last frame
            if lane.error is not None:
                if not self._keep or not isinstance(lane.error, EdgePurifyError):
                    raise lane.error
                failures.append(lane.error)
        if len(failures) == len(self._lanes):
            raise failures[0]

    def _of_one_live(self) -> Iterator[tuple[str, Frame]]:
        lane = self._direct
        assert lane is not None
        try:
            for frame in lane.frames(self._meter):
                yield lane.name, frame
        except Exception as error:
            lane.error = error
            lane.report_end()
            raise
        lane.report_end()


class _Lane:
    """One source's frames on their way to the loop; its fields are guarded by the common condition."""

    def __init__(self, source: Source, name: str, number: int | None, changed: threading.Condition) -> None:
        self.name = name
        self.items: deque[Frame] = deque()
        self.closed = False
        self.error: BaseException | None = None
        self._source = source
        self._number = number
        self._changed = changed
        self.thread = threading.Thread(target=self._read, name=f"read {name}", daemon=True)
        self._meter: Meter | None = None

    def start(self, meter: Meter) -> None:
        self._meter = meter
        self.thread.start()

    def stop(self) -> None:
        """Take no more frames, and let the reading thread end."""
        with self._changed:
            self.closed = True
            self.items.clear()
            self._changed.notify_all()
        if self._source.live:
            self._source.close()

    def report_end(self) -> None:
        """Report that the source has ended or failed."""
        if self.error is None:
            self._source.report(SourceState.ENDED)
        else:
            what = self.error.what if isinstance(self.error, EdgePurifyError) else str(self.error)
            self._source.report(SourceState.FAILED, what)

    def frames(self, meter: Meter) -> Iterator[Frame]:
        """The source's frames, each timed, under the source's name in this run."""
        frames = iter(self._source)
        while True:
            asked = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                return
            meter.add_time("capture", (time.perf_counter() - asked) * 1e3)
            yield frame if self._number is None else self._marked(frame)

    def _marked(self, frame: Frame) -> Frame:
        """A frame that says which of several sources it is of."""
        own_name = self.name if frame.source == self._source.name else frame.source
        return replace(frame, source=own_name, source_index=self._number or 0)

    def _read(self) -> None:
        assert self._meter is not None
        error: BaseException | None = None
        try:
            for frame in self.frames(self._meter):
                if not self._put(frame):
                    break
        except BaseException as failure:  # whatever it is, it is raised on the main thread
            error = failure
        with self._changed:
            self.error = error
            self.closed = True
            self._changed.notify_all()

    def _put(self, frame: Frame) -> bool:
        """Add a frame as soon as there is room, or in the place of an older one; False if nobody wants it."""
        with self._changed:
            if self._source.live:
                self.items.clear()
            else:
                self._changed.wait_for(lambda: self.closed or len(self.items) < QUEUE_LENGTH)
            if not self.closed:
                self.items.append(frame)
                self._changed.notify_all()
            return not self.closed
