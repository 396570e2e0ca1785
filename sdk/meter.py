"""Counts what a run did and how long its stages took, in constant memory however long it runs."""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sdk.result import Result
    from sdk.sources import Frame

STAGES = ("capture", "preprocess", "draw", "purify", "classify", "total", "write")


class Percentiles(NamedTuple):
    """Milliseconds that half, 90 % and 99 % of the frames stayed within."""

    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        frames: how many went through the purifier, ``skipped`` included.
        skipped: those without a label, since an engine failed on them.
        missed: a live source's frames that came while an earlier one was being worked on.
        seconds: from the first frame's arrival to the last one's result.
        frames_per_s: 0 if there was no frame.
        labels, purifiers, classifiers: how often each was given or drawn (by id), the most frequent first.
        stages: of each that ran: capture, preprocess, draw, purify, classify, total (of these four), write.
        seeded: whether the draws came from a seed and so protected nothing.
        interrupted: whether Ctrl-C ended the run.
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


class Meter:
    """Collects a run's figures; each stage may be timed from a thread of its own."""

    def __init__(self) -> None:
        self.interrupted = False
        self._labels: Counter[str] = Counter()
        self._purifiers: Counter[str] = Counter()
        self._classifiers: Counter[str] = Counter()
        self._stages = {stage: Durations() for stage in STAGES}
        self._frames = self._skipped = self._missed = 0
        self._began = self._ended = 0.0
        self._seeded = False

    def add_time(self, stage: str, milliseconds: float) -> None:
        self._stages[stage].add(milliseconds)

    def add_result(self, frame: Frame, result: Result) -> None:
        """Count a result as soon as it is there."""
        self._ended = time.perf_counter()
        if self._frames == 0:
            self._began = self._ended - result.timings.total_ms / 1e3
        self._frames += 1
        self._missed = frame.index + 1 - self._frames
        self._seeded = self._seeded or result.seeded
        if result.label is None:
            self._skipped += 1
        else:
            self._labels[result.label] += 1
        for draw in result.draws:
            self._purifiers[draw.purifier_id] += 1
            self._classifiers[draw.classifier_id] += 1
        timings = result.timings
        self.add_time("preprocess", timings.preprocess_ms)
        self.add_time("draw", timings.draw_ms)
        self.add_time("purify", timings.purify_ms)
        self.add_time("classify", timings.classify_ms)
        self.add_time("total", timings.total_ms)

    def summary(self) -> Summary:
        seconds = self._ended - self._began
        return Summary(
            frames=self._frames,
            skipped=self._skipped,
            missed=self._missed,
            seconds=seconds,
            frames_per_s=self._frames / seconds if seconds > 0 else 0.0,
            labels=dict(self._labels.most_common()),
            purifiers=dict(self._purifiers.most_common()),
            classifiers=dict(self._classifiers.most_common()),
            stages={name: times.percentiles() for name, times in self._stages.items() if times.count},
            seeded=self._seeded,
            interrupted=self.interrupted,
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
