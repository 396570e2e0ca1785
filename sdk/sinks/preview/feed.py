"""Figures and newest frames of a run, as the loop hands them to the preview.

The loop writes and the web server reads, on a thread each. Writing keeps references and counts; pictures are
drawn and encoded when somebody looks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from sdk.host.terminal import printable
from sdk.meter import Percentiles
from sdk.sinks.record import Record, record

if TYPE_CHECKING:
    from sdk.bundle import Bundle
    from sdk.result import Result, Timings
    from sdk.sources import Frame, SourceEvent

WINDOW_S = 10.0  # of frames that rates and latencies are taken from
MAX_FRAMES = 10_000  # of them, so that a fast loop takes no more memory
MAX_SOURCES = 32
PICTURES = "pictures"  # the source of frames that have no time, such as a folder's
STALLED_S = 10.0


class Shown(NamedTuple):
    """One frame and its results, with its number among the frames of this run, from 1."""

    number: int
    source: str
    frame: Frame
    results: tuple[Result, ...]


class SourceStatus(msgspec.Struct, frozen=True):
    """One source; ``state`` is null until it reported one, ``silent_s`` the time since its last frame."""

    name: str
    state: str | None
    reason: str | None
    frames: int
    skipped: int
    missed: int
    frames_per_s: float
    silent_s: float | None
    label: str | None
    score: float | None


class Status(msgspec.Struct, frozen=True):
    """Content of ``/status``; times in ms are of the last ten seconds, counts since the start.

    ``trouble`` says why the loop is not healthy; null if it is. ``missed`` are a live source's frames that
    came while an earlier one was being worked on.
    """

    bundle: str
    trouble: str | None
    uptime_s: float
    frames: int
    skipped: int
    missed: int
    frames_per_s: float
    latency_ms: dict[str, Percentiles]
    newest: Record | None
    sources: list[SourceStatus] = []


@dataclass
class _Source:
    """Counts of one source."""

    newest: Shown | None = None
    frames: int = 0
    skipped: int = 0
    missed: int = 0
    came_s: float = 0.0
    state: str | None = None
    reason: str | None = None


class _Recent(NamedTuple):
    at_s: float
    source: str
    timings: list[Timings]
    error: str | None


class Feed:
    """The newest frames and the figures; ``clock`` gives seconds, and is for tests."""

    def __init__(self, bundle: Bundle, clock: Callable[[], float] = time.monotonic) -> None:
        self.newest: Shown | None = None
        self._bundle = bundle
        self._clock = clock
        self._began = self._labelled = clock()
        self._sources: dict[str, _Source] = {}
        self._recent: deque[_Recent] = deque(maxlen=MAX_FRAMES)  # no pictures
        self._lock = Lock()  # guards all of the above but ``newest``, which is replaced whole

    def add(self, frame: Frame, results: Sequence[Result]) -> None:
        """Count a frame, and show it as the newest one."""
        now = self._clock()
        name = PICTURES if frame.time_s is None else frame.source
        with self._lock:
            source = self._source(name)
            shown = Shown(1 + (self.newest.number if self.newest else 0), name, frame, tuple(results))
            self.newest = source.newest = shown
            error = next((result.error for result in results if result.label is None), None)
            self._recent.append(_Recent(now, name, [result.timings for result in results], error))
            self._forget(now)
            source.frames += 1
            source.missed = max(0, frame.index + 1 - source.frames)
            source.came_s = now
            if all(result.label is None for result in results):
                source.skipped += 1
            else:
                self._labelled = now

    def change(self, event: SourceEvent) -> None:
        """Take note of a source's state."""
        with self._lock:
            source = self._source(event.source)
            source.state, source.reason = event.state.value, event.reason and printable(event.reason)

    def newest_of(self, name: str | None) -> Shown | None:
        """The newest frame of a source; of any source if ``name`` is None."""
        if name is None:
            return self.newest
        with self._lock:
            source = self._sources.get(name)
            return source.newest if source else None

    @property
    def trouble(self) -> str | None:
        """Why the loop is not healthy: for ``STALLED_S`` no frame came, or none got a label; else None."""
        with self._lock:
            return self._trouble(self._clock())

    def status(self) -> Status:
        now = self._clock()
        with self._lock:
            self._forget(now)
            trouble, newest, recent = self._trouble(now), self.newest, list(self._recent)
            uptime_s = now - self._began
            span_s = max(min(uptime_s, WINDOW_S), 1e-3)
            sources = [
                self._source_status(name, source, now, span_s) for name, source in self._sources.items()
            ]
        timings = [timing for each in recent for timing in each.timings]
        return Status(
            bundle=self._bundle.manifest.name,
            trouble=trouble,
            uptime_s=round(uptime_s, 3),
            frames=newest.number if newest else 0,
            skipped=sum(source.skipped for source in sources),
            missed=sum(source.missed for source in sources),
            frames_per_s=round(len(recent) / span_s, 2),
            latency_ms={
                stage: _percentiles([getattr(timing, f"{stage}_ms") for timing in timings])
                for stage in ("preprocess", "draw", "purify", "classify", "total")
                if timings
            },
            newest=record(newest.frame, newest.results[0], self._bundle.labels) if newest else None,
            sources=sources,
        )

    def _source(self, name: str) -> _Source:
        if name not in self._sources and len(self._sources) >= MAX_SOURCES:
            oldest = min(self._sources, key=lambda known: self._sources[known].came_s)
            del self._sources[oldest]
        return self._sources.setdefault(name, _Source())

    def _source_status(self, name: str, source: _Source, now: float, span_s: float) -> SourceStatus:
        first = source.newest.results[0] if source.newest else None
        return SourceStatus(
            name=printable(name),
            state=source.state,
            reason=source.reason,
            frames=source.frames,
            skipped=source.skipped,
            missed=source.missed,
            frames_per_s=round(sum(each.source == name for each in self._recent) / span_s, 2),
            silent_s=round(now - source.came_s, 2) if source.newest else None,
            label=first.label if first else None,
            score=first.score if first else None,
        )

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0].at_s < now - WINDOW_S:
            self._recent.popleft()

    def _trouble(self, now: float) -> str | None:
        self._forget(now)
        silent_s = now - self._labelled
        if silent_s <= STALLED_S:
            return None
        if not self._recent:
            return f"no frame for {silent_s:.0f} s"
        return f"no label for {silent_s:.0f} s: {printable(self._recent[-1].error)}"


def _percentiles(values: list[float]) -> Percentiles:
    return Percentiles(*(round(float(value), 4) for value in np.percentile(values, (50, 90, 99))))
