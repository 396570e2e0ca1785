"""The loop: read, purify, write, each on a thread of its own, from a source's first frame to its last.

    with Purifier.load() as purifier:
        summary = run(purifier, open_source("clip.mp4"), [AnnotatedVideo("out.mp4", fps=25)])

The purifier runs on the caller's thread, which is where Ctrl-C arrives.  The queues between the stages are
short: a slow stage holds the others back, and a recorded source loses no frame.  A live source is not read
ahead, since its newest frame is taken when the purifier is free.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from sdk.meter import Meter, Summary
from sdk.result import Result
from sdk.sinks import Sink
from sdk.sources import Frame, Source

QUEUE_LENGTH = 4  # frames; evens out a slow frame now and then, and costs 25 MB at 1920x1080

T = TypeVar("T")


class Purify(Protocol):
    """What the loop needs of a Purifier."""

    def __call__(
        self, frame: npt.NDArray[np.uint8], *, frame_index: int | None = None, source: str | None = None
    ) -> Result: ...


def run(
    purifier: Purify,
    source: Source,
    sinks: Sequence[Sink] = (),
    *,
    max_frames: int | None = None,
    on_result: Callable[[Frame, Result], object] | None = None,
    meter: Meter | None = None,
) -> Summary:
    """Purify a source's frames and write the results, until it ends, ``max_frames`` are done, or Ctrl-C.

    Args:
        purifier: called on this thread for every frame.
        source: closed at the end, whatever happens.
        sinks: opened before the first frame; closed at the end, with all that was purified written.
        max_frames: stop after so many.
        on_result: called on this thread after every frame.
        meter: collects the figures; give one to read them when this raises.

    Returns:
        The figures; ``interrupted`` says that Ctrl-C ended the run.

    Raises:
        SinkError: an output can't be written; before the first frame where that is known by then.
        SourceError: the source is damaged or lost; the frames before that are written.
        BackendError: an engine failed; the frames before that are written.
    """
    meter = meter or Meter()
    with ExitStack() as stack:
        stack.enter_context(source)
        for sink in sinks:
            stack.enter_context(sink)
        writer = stack.enter_context(_Writer([sink for sink in sinks if not sink.on_main_thread], meter))
        reader = stack.enter_context(_Reader(source, meter))
        shown = [sink for sink in sinks if sink.on_main_thread]
        try:
            for n_done, frame in enumerate(reader, start=1):
                result = purifier(frame.region, frame_index=frame.index, source=frame.source)
                meter.add_result(frame, result)
                writer.write(frame, result)
                for sink in shown:
                    sink.write(frame, result)
                if on_result is not None:
                    on_result(frame, result)
                if n_done == max_frames or any(sink.done for sink in sinks):
                    break
        except KeyboardInterrupt:
            meter.interrupted = True
    return meter.summary()


class _Reader:
    """Reads a recorded source ahead on a thread; a live one, which has its own, is taken from directly."""

    def __init__(self, source: Source, meter: Meter) -> None:
        self._source = source
        self._meter = meter
        self._queue: _Queue[Frame] = _Queue(QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._read_ahead, name="read", daemon=True)

    def __enter__(self) -> _Reader:
        if not self._source.live:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.discard()
        if not self._source.live:
            _join(self._thread)

    def __iter__(self) -> Iterator[Frame]:
        return self._timed() if self._source.live else iter(self._queue)

    def _read_ahead(self) -> None:
        try:
            for frame in self._timed():
                if not self._queue.put(frame):
                    break
            self._queue.close()
        except BaseException as error:  # whatever it is, it is raised on the main thread
            self._queue.close(error)

    def _timed(self) -> Iterator[Frame]:
        frames = iter(self._source)
        while True:
            asked = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                return
            self._meter.add_time("capture", (time.perf_counter() - asked) * 1e3)
            yield frame


class _Writer:
    """Writes to the sinks on a thread; leaving it waits until everything is written."""

    def __init__(self, sinks: Sequence[Sink], meter: Meter) -> None:
        self._sinks = sinks
        self._meter = meter
        self._queue: _Queue[tuple[Frame, Result]] = _Queue(QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._write_all, name="write", daemon=True)

    def __enter__(self) -> _Writer:
        if self._sinks:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.close()
        if self._sinks:
            _join(self._thread)
        if self._queue.error is not None and error is None:
            raise self._queue.error

    def write(self, frame: Frame, result: Result) -> None:
        """Hand a result over; raises what went wrong with an earlier one."""
        if self._sinks and not self._queue.put((frame, result)) and self._queue.error is not None:
            raise self._queue.error

    def _write_all(self) -> None:
        working = self._sinks
        try:
            for frame, result in self._queue:
                began = time.perf_counter()
                working = [sink for sink in working if self._has_written(sink, frame, result)]
                self._meter.add_time("write", (time.perf_counter() - began) * 1e3)
        except BaseException as error:
            self._queue.close(error)

    def _has_written(self, sink: Sink, frame: Frame, result: Result) -> bool:
        """A sink that fails ends the run; the others still get what has been purified."""
        try:
            sink.write(frame, result)
        except Exception as error:
            self._queue.close(error)
            return False
        return True


class _Queue(Generic[T]):
    """A bounded queue between two threads that either side can close, with an error or without."""

    def __init__(self, length: int) -> None:
        self.error: BaseException | None = None
        self._length = length
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> bool:
        """Add an item as soon as there is room; False if the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._length)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def close(self, error: BaseException | None = None) -> None:
        """Take no more items; those inside are still given out, and then ``error`` is raised."""
        with self._changed:
            self._closed = True
            self.error = self.error or error
            self._changed.notify_all()

    def discard(self) -> None:
        """Close, and drop what is inside."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._items) > 0)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self.error is not None:
            raise self.error


def _join(thread: threading.Thread) -> None:
    """Wait for a thread, through one more Ctrl-C: what it works on is closed next."""
    try:
        thread.join()
    except KeyboardInterrupt:
        thread.join()
        raise
