"""What the loop hands to the preview: the newest frame, and figures of the last seconds.

The loop writes and the web server reads, on a thread each.  Writing keeps a reference and counts; pictures
are drawn and encoded when somebody looks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from sdk.meter import Percentiles
from sdk.sinks.record import Record, record

if TYPE_CHECKING:
    from sdk.bundle import Bundle
    from sdk.result import Result, Timings
    from sdk.sources import Frame

WINDOW_S = 10.0  # of frames that rates and latencies are taken from
MOST_FRAMES = 10_000  # of them, so that a fast loop takes no more memory
STALLED_S = 10.0


class Shown(NamedTuple):
    """One frame, its result, and its number among the frames of this run, from 1."""

    number: int
    frame: Frame
    result: Result


class Status(msgspec.Struct, frozen=True):
    """What ``/status`` says; times in ms are of the last ten seconds, counts since the start.

    ``trouble`` says why the loop is not healthy; null if it is.  ``missed`` are a live source's frames that
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


class Feed:
    """The newest frame and the figures; ``clock`` gives seconds, and is for tests."""

    def __init__(self, bundle: Bundle, clock: Callable[[], float] = time.monotonic) -> None:
        self.newest: Shown | None = None
        self._bundle = bundle
        self._clock = clock
        self._began = self._labelled = clock()
        self._skipped = 0
        self._recent: deque[tuple[float, Timings, str | None]] = deque(maxlen=MOST_FRAMES)  # no pictures
        self._lock = Lock()  # guards all of the above but ``newest``, which is replaced whole

    def add(self, frame: Frame, result: Result) -> None:
        now = self._clock()
        with self._lock:
            self.newest = Shown(1 + (self.newest.number if self.newest else 0), frame, result)
            self._recent.append((now, result.timings, result.error))
            self._forget(now)
            if result.label is None:
                self._skipped += 1
            else:
                self._labelled = now

    @property
    def trouble(self) -> str | None:
        """Why the loop is not healthy: for ``STALLED_S`` no frame came, or none got a label; else None."""
        with self._lock:
            return self._trouble(self._clock())

    def status(self) -> Status:
        now = self._clock()
        with self._lock:
            trouble = self._trouble(now)
            newest, timings = self.newest, [timings for _, timings, _ in self._recent]
            skipped, uptime_s = self._skipped, now - self._began
        n_frames = newest.number if newest else 0
        return Status(
            bundle=self._bundle.manifest.name,
            trouble=trouble,
            uptime_s=round(uptime_s, 3),
            frames=n_frames,
            skipped=skipped,
            missed=newest.frame.index + 1 - n_frames if newest else 0,
            frames_per_s=round(len(timings) / max(min(uptime_s, WINDOW_S), 1e-3), 2),
            latency_ms={
                stage: _percentiles([getattr(timing, f"{stage}_ms") for timing in timings])
                for stage in ("preprocess", "draw", "purify", "classify", "total")
                if timings
            },
            newest=record(newest.frame, newest.result, self._bundle.labels) if newest else None,
        )

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - WINDOW_S:
            self._recent.popleft()

    def _trouble(self, now: float) -> str | None:
        self._forget(now)
        silent_s = now - self._labelled
        if silent_s <= STALLED_S:
            return None
        if not self._recent:
            return f"no frame for {silent_s:.0f} s"
        return f"no label for {silent_s:.0f} s: {self._recent[-1][2]}"


def _percentiles(values: list[float]) -> Percentiles:
    return Percentiles(*(round(float(value), 4) for value in np.percentile(values, (50, 90, 99))))
