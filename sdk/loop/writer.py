"""The writing stage of the loop: sinks that are written and closed on a thread of their own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Generic, TypeVar

from sdk.meter import Meter
from sdk.result import Result
from sdk.sinks import Sink
from sdk.sources import Frame, SourceEvent

QUEUE_LENGTH = 4  # frames; evens out a slow frame now and then, and costs 25 MB at 1920x1080


T = TypeVar("T")


class Writer:
    """Writes to sinks on a thread; leaving it waits until everything is written and every sink is closed.

    The sinks are closed on that thread as well: Ctrl-C arrives on another, so it can't leave a file
    unfinished.
    """

    def __init__(self, sinks: Sequence[Sink], meter: Meter) -> None:
        self._sinks = sinks
        self._meter = meter
        self._queue: _Queue[tuple[Frame, Sequence[Result]] | SourceEvent] = _Queue(QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._work, name="write", daemon=True)
        self._close_errors: list[BaseException] = []

    def __enter__(self) -> Writer:
        opened: list[Sink] = []
        try:
            for sink in self._sinks:
                opened.append(sink)
                sink.open()
        except BaseException:
            for sink in opened:
                sink.close()
            raise
        if self._sinks:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.close()
        if self._sinks:
            join(self._thread)
        if error is None:
            for failure in (self._queue.error, *self._close_errors):
                if failure is not None:
                    raise failure

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """Hand results over; raises what went wrong with an earlier one."""
        if self._sinks and not self._queue.put((frame, results)) and self._queue.error is not None:
            raise self._queue.error

    def tell(self, event: SourceEvent) -> None:
        """Hand a source's change of state over, without waiting: it comes from the source's thread."""
        if self._sinks:
            self._queue.put(event, wait=False)

    def _work(self) -> None:
        try:
            self._write_all()
        finally:
            for sink in reversed(self._sinks):
                self._close(sink)

    def _close(self, sink: Sink) -> None:
        try:
            sink.close()
        except BaseException as error:
            self._close_errors.append(error)

    def _write_all(self) -> None:
        working = self._sinks
        try:
            for item in self._queue:
                began = time.perf_counter()
                working = [sink for sink in working if self._has_taken(sink, item)]
                if not isinstance(item, SourceEvent):
                    self._meter.add_time("write", (time.perf_counter() - began) * 1e3)
        except BaseException as error:
            self._queue.close(error)

    def _has_taken(self, sink: Sink, item: tuple[Frame, Sequence[Result]] | SourceEvent) -> bool:
        """A sink that fails ends the run; the others still get what has been purified."""
        try:
            if isinstance(item, SourceEvent):
                sink.source_changed(item)
            else:
                sink.write_regions(*item)
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

    def put(self, item: T, *, wait: bool = True) -> bool:
        """Add an item as soon as there is room, or at once if not ``wait``; False if the queue is closed."""
        with self._changed:
            if wait:
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


def join(thread: threading.Thread, timeout_s: float | None = None) -> None:
    """Wait for a thread, through one more Ctrl-C: what it works on is closed next."""
    try:
        thread.join(timeout_s)
    except KeyboardInterrupt:
        thread.join(timeout_s)
        raise
