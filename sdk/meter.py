"""Figures of a run: counts, states of its sources and times of its stages, in constant memory."""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sdk.result import Result
    from sdk.sources import Frame, SourceEvent

STAGES = ("capture", "preprocess", "draw", "purify", "classify", "total", "write")


class Percentiles(NamedTuple):
    """Milliseconds that half, 90 % and 99 % of the frames stayed within."""

    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class SourceSummary:
    """Figures of one of a run's sources.

    Attributes:
        frames, skipped, missed, labels: as in ``Summary``.
        state: the source's last state, by its value: live, stalled, ended, failed and so on.
        reason: why it stalled or failed; None otherwise.
    """

    frames: int
    skipped: int
    missed: int
    labels: dict[str, int]
    state: str
    reason: str | None


@dataclass(frozen=True)
class Summary:
    """Figures of a run.

    Attributes:
        frames: how many went through the purifier, ``skipped`` included; labels count a frame's regions.
        skipped: those without a label: an engine failed, or the picture could not be read.
        missed: a live source's frames that came while an earlier one was being worked on.
        seconds: from the first frame's arrival to the last one's result.
        frames_per_s: 0 if there was no frame.
        labels, purifiers, classifiers: how often each was given or drawn (by id), the most frequent first.
        stages: of each that ran: capture, preprocess, draw, purify, classify, total (of these four), write.
        seeded: whether the draws came from a seed and so protected nothing.
        interrupted: whether Ctrl-C ended the run.
        sources: the figures of each source, by its name in this run.
    """

    frames: int
    skipped: int
    missed: int
    seconds: float
    frames_per_s: float
    labels: dict[str, int]
    purifiers: dict[str, int]
    classifiers: dict[str, int]
    stages: dict[str, Percentiles]
    seeded: bool
    interrupted: bool
    sources: dict[str, SourceSummary] = field(default_factory=dict)


class Meter:
    """Collects a run's figures; each stage may be timed from a thread of its own."""

    def __init__(self) -> None:
        self.interrupted = False
        self._labels: Counter[str] = Counter()
        self._purifiers: Counter[str] = Counter()
        self._classifiers: Counter[str] = Counter()
        self._stages = {stage: Durations() for stage in STAGES}
        self._sources: dict[str, _SourceCounts] = {}
        self._began = self._ended = 0.0
        self._seeded = False

    def expect_sources(self, names: Sequence[str]) -> None:
        """The run's sources, so that one that never gives a frame is in the summary as well."""
        for name in names:
            self._sources.setdefault(name, _SourceCounts())

    def add_time(self, stage: str, milliseconds: float) -> None:
        self._stages[stage].add(milliseconds)

    def add_event(self, event: SourceEvent) -> None:
        """Note a source's state."""
        counts = self._sources.setdefault(event.source, _SourceCounts())
        counts.state, counts.reason = event.state.value, event.reason

    def add_results(self, frame: Frame, results: Sequence[Result], *, source: str | None = None) -> None:
        """Count a frame and the results of its regions as soon as they are there.

        ``source`` is the source's name in this run; without it, the frame's own.
        """
        self._ended = time.perf_counter()
        counts = self._sources.setdefault(frame.source if source is None else source, _SourceCounts())
        if not any(each.frames for each in self._sources.values()):
            self._began = self._ended - sum(result.timings.total_ms for result in results) / 1e3
        counts.frames += 1
        counts.missed = frame.index + 1 - counts.frames
        counts.skipped += any(result.label is None for result in results)
        for result in results:
            self._add(result, counts)

    def _add(self, result: Result, counts: _SourceCounts) -> None:
        self._seeded = self._seeded or result.seeded
        if result.label is not None:
            self._labels[result.label] += 1
            counts.labels[result.label] += 1
        for draw in result.draws:
            self._purifiers[draw.purifier_id] += 1
            self._classifiers[draw.classifier_id] += 1
        timings = result.timings
        if timings.total_ms == 0:  # no engine saw it
            return
        self.add_time("preprocess", timings.preprocess_ms)
        self.add_time("draw", timings.draw_ms)
        self.add_time("purify", timings.purify_ms)
        self.add_time("classify", timings.classify_ms)
        self.add_time("total", timings.total_ms)

    def summary(self) -> Summary:
        seconds = self._ended - self._began
        counts = self._sources.values()
        frames = sum(each.frames for each in counts)
        return Summary(
            frames=frames,
            skipped=sum(each.skipped for each in counts),
            missed=sum(each.missed for each in counts),
            seconds=seconds,
            frames_per_s=frames / seconds if seconds > 0 else 0.0,
            labels=dict(self._labels.most_common()),
            purifiers=dict(self._purifiers.most_common()),
            classifiers=dict(self._classifiers.most_common()),
            stages={name: times.percentiles() for name, times in self._stages.items() if times.count},
            seeded=self._seeded,
            interrupted=self.interrupted,
            sources={name: each.summary() for name, each in self._sources.items()},
        )


class _SourceCounts:
    """Counts of one source."""

    def __init__(self) -> None:
        self.frames = self.skipped = self.missed = 0
        self.labels: Counter[str] = Counter()
        self.state = "connecting"
        self.reason: str | None = None

    def summary(self) -> SourceSummary:
        return SourceSummary(
            frames=self.frames,
            skipped=self.skipped,
            missed=self.missed,
            labels=dict(self.labels.most_common()),
            state=self.state,
            reason=self.reason,
        )


class Durations:
    """A histogram of durations with bins that grow by 1 %, from 0.1 µs to 10 minutes; empty, it says 0."""

    _SHORTEST_MS, _GROWTH, _BINS = 1e-4, math.log(1.01), 2270

    def __init__(self) -> None:
        self.count = 0
        self._bins = array("Q", bytes(8 * self._BINS))

    def add(self, milliseconds: float) -> None:
        position = math.log(max(milliseconds, self._SHORTEST_MS) / self._SHORTEST_MS) / self._GROWTH
        self._bins[min(int(position), self._BINS - 1)] += 1
        self.count += 1

    def percentile(self, percent: float) -> float:
        """Milliseconds, to 0.5 %, that ``percent`` of the durations stayed within (nearest rank)."""
        rank = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for position, count in enumerate(self._bins):
            seen += count
            if seen >= rank:
                return self._SHORTEST_MS * math.exp((position + 0.5) * self._GROWTH)
        return 0.0

    def percentiles(self) -> Percentiles:
        return Percentiles(self.percentile(50), self.percentile(90), self.percentile(99))
