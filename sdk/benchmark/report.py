"""Results of a benchmark run: figures by section, and the checks on them."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import median

import msgspec

from sdk.choices import GraphKind, Precision


class Quantiles(msgspec.Struct, frozen=True):
    """Quantiles of many times, in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float


class Stages(msgspec.Struct, frozen=True):
    """A frame, stage by stage, and the least that must be done for it.

    Attributes:
        votes: draws per frame.
        ours: preprocess, draw, purify, classify and "total", which is what a caller waits for.
        bare: one integer-factor resize, the sessions of a purifier and a classifier, and their "total".
        engines: each engine's bare session, by id.
        draw_us: median microseconds of one draw by itself.
        frames_per_s: of the purifier alone.
    """

    votes: int
    ours: dict[str, Quantiles]
    bare: dict[str, Quantiles]
    engines: dict[str, Quantiles]
    draw_us: float
    frames_per_s: float


class Preprocess(msgspec.Struct, frozen=True):
    """Frame to engine image, against a plain ``INTER_AREA`` of the frame's full centre."""

    ours: Quantiles
    full_centre: Quantiles


class Votes(msgspec.Struct, frozen=True):
    """A frame under several draws, against one resize and the bare sessions of as many."""

    votes: int
    ours: Quantiles
    bare: Quantiles


class Bank(msgspec.Struct, frozen=True):
    """A frame with a bank of so many purifiers, made of the bundle's own."""

    purifiers: int
    ours: Quantiles


class InPrecision(msgspec.Struct, frozen=True):
    """A frame with the bundle's engines in one precision, in turns with the others.

    Attributes:
        precision: "fp32", "fp16" or "int8".
        graphs: "cpu" if the bundle has graphs of this precision that were made for CPUs, else "gpu".
        frame: what a caller waits for.
        engines: the purifier and the classifier alone.
    """

    precision: Precision
    graphs: GraphKind
    frame: Quantiles
    engines: Quantiles


class Memory(msgspec.Struct, frozen=True):
    """Resident memory of fresh processes with a small and a large bank, in bytes.

    ``added_files_bytes`` are the ONNX files of the ``added_sessions`` that the large bank has more.
    """

    small_purifiers: int
    small_bytes: int
    large_purifiers: int
    large_bytes: int
    added_sessions: int
    added_files_bytes: int


class Throughput(msgspec.Struct, frozen=True):
    """The loop over a video file.

    Attributes:
        saving: whether an annotated video was written.
        frames_per_s: of the loop.
        possible_frames_per_s: min(1 / slowest stage, CPUs / CPU seconds of all stages), each stage by itself.
        stages_ms: reading, purifying, and writing if there was any, a frame, each by itself.
        cpu_ms: of all stages together, a frame.
        cpus: that the process may use.
    """

    saving: bool
    frames_per_s: float
    possible_frames_per_s: float
    stages_ms: dict[str, float]
    cpu_ms: float
    cpus: int


class Start(msgspec.Struct, frozen=True):
    """Seconds from a process's start to its first result, of each process after the first."""

    seconds: tuple[float, ...]


class Soak(msgspec.Struct, frozen=True):
    """A long run of the loop; the first tenth of the frames is the warm-up.

    Attributes:
        frames: how many went through.
        growth_bytes: of the resident memory, from the first tenth's end to the highest tenth's end after it.
        ours_ms, bare_ms: p50 of each tenth in milliseconds, of the frames and of the bare engines.
    """

    frames: int
    growth_bytes: int
    ours_ms: tuple[float, ...]
    bare_ms: tuple[float, ...]

    @property
    def drift(self) -> float:
        """The factor by which ours grew beyond bare, from the first tenth to the last.

        By the median of the slopes between all pairs of tenths (Theil and Sen), which a busy moment of the
        machine in one of them does not bend.
        """
        ratios = [math.log(ours / bare) for ours, bare in zip(self.ours_ms, self.bare_ms, strict=True)]
        pairs = combinations(enumerate(ratios), 2)
        slope = median((later - earlier) / (j - i) for (i, earlier), (j, later) in pairs)
        return math.exp(slope * (len(ratios) - 1))


class Interval(msgspec.Struct, frozen=True):
    """A part of a long unattended run.

    Attributes:
        ended_s: its end, in seconds since the run's beginning.
        frames: how many went through the purifier, of which ``skipped`` got no label: an engine failed.
        missed: the camera's frames that came while an earlier one was being worked on.
        losses: how often the camera was lost.
        resident_bytes, open_files, threads: of the process, the least of its samples: what stays.
        latency: of a frame in the purifier.
    """

    ended_s: float
    frames: int
    skipped: int
    missed: int
    losses: int
    resident_bytes: int
    open_files: int
    threads: int
    latency: Quantiles


class Unattended(msgspec.Struct, frozen=True):
    """A long unattended run; its first quarter is the warm-up.

    Attributes:
        hours: how long.
        intervals: equal parts of it.
        failures: how often an engine failed, on purpose.
        visits: requests that the page's viewers made.
    """

    hours: float
    intervals: tuple[Interval, ...]
    failures: int
    visits: int

    @property
    def skipped(self) -> int:
        return sum(interval.skipped for interval in self.intervals)

    def growth(self, what: str) -> int:
        """How far an Interval's figure rose from the second quarter of the run to the last, by their medians.

        What is there only at times, such as an encoder's threads or pages that the system takes back, is no
        growth.
        """
        values = [getattr(interval, what) for interval in self.intervals]
        quarter = max(1, len(values) // 4)
        return int(median(values[-quarter:]) - median(values[quarter : 2 * quarter]))


class Check(msgspec.Struct, frozen=True):
    """One figure held to a bound; ``at_least`` tells a lower bound from an upper one."""

    name: str
    measured: float
    bound: float
    unit: str
    passed: bool
    at_least: bool = False


class Report(msgspec.Struct, frozen=True):
    """One run.

    A section that was not asked for is None or empty; one that was, and could not be measured here, says why
    in ``not_measured``.
    """

    bundle: str
    backend: str
    version: str
    precision: str
    threads: int
    cpus: int
    image_width: int
    image_height: int
    frame_width: int
    frame_height: int
    frames: int
    stages: Stages | None = None
    preprocess: Preprocess | None = None
    votes: tuple[Votes, ...] = ()
    banks: tuple[Bank, ...] = ()
    precisions: tuple[InPrecision, ...] = ()
    exact_int8: bool = False  #: whether the CPU has VNNI, or is an ARM
    memory: Memory | None = None
    loop: tuple[Throughput, ...] = ()
    start: Start | None = None
    soak: Soak | None = None
    unattended: Unattended | None = None
    not_measured: dict[str, str] = {}
    checks: tuple[Check, ...] = ()


def as_json(report: Report) -> str:
    """The report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
