"""One sink for each of several sources."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from sdk.result import Result
from sdk.sinks.base import Sink
from sdk.sources import Frame, SourceEvent


class PerSource(Sink):
    """Passes every frame to the sink of its source.

    Args:
        sinks: by source name in the run, in the order of the sources; all on the main thread, or none.
    """

    def __init__(self, sinks: dict[str, Sink]) -> None:
        self._by_name = sinks
        self._sinks = list(sinks.values())
        self._opened = ExitStack()
        self.on_main_thread = any(sink.on_main_thread for sink in self._sinks)

    @property
    def done(self) -> bool:  # type: ignore[override]
        """True once any of them wants no more."""
        return any(sink.done for sink in self._sinks)

    def open(self) -> None:
        for sink in self._sinks:
            self._opened.enter_context(sink)

    def write(self, frame: Frame, result: Result) -> None:
        self._sinks[frame.source_index].write(frame, result)

    def write_regions(self, frame: Frame, results: Sequence[Result]) -> None:
        self._sinks[frame.source_index].write_regions(frame, results)

    def source_changed(self, event: SourceEvent) -> None:
        if (sink := self._by_name.get(event.source)) is not None:
            sink.source_changed(event)

    def close(self) -> None:
        self._opened.close()
