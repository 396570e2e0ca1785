"""What the runtime costs beyond the engines it runs, measured in one process.

Each frame goes through a ``Purifier`` and, before or after by turns, through the bare minimum: the same
OpenCV resize and the same ONNX Runtime sessions, called directly.  A busy machine so slows both alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter

import cv2
import msgspec
import numpy as np
from rich.table import Table

from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import Bundle, default_bundle
from sdk.draw import Drawer
from sdk.errors import GateError, UsageError
from sdk.preprocess import Frame, Preprocessor, plan_resize
from sdk.purifier import Purifier

OVERHEAD_BOUND = 1.15  # a frame's time over the bare engines' and the resize's
DRAW_BOUND_US = 50.0
_MEND = "measure again on a machine with nothing else to do"
WARM_UP_FRAMES = 10
DRAWS_TIMED = 2000


class Quantiles(msgspec.Struct, frozen=True):
    """Of one stage's times, in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float


class Report(msgspec.Struct, frozen=True):
    """One run's figures.

    Attributes:
        stages: the purifier's, by name; "total" is what a caller waits for.
        bare: the resize, the purifier's and the classifier's session, and the "total" of the three.
        overhead: p50 of the purifier's total over p50 of the bare total.
        draw_us: median microseconds of one draw by itself.
        frames_per_s: of the purifier alone.
    """

    bundle: str
    backend: str
    version: str
    precision: str
    threads: int
    frame_width: int
    frame_height: int
    votes: int
    frames: int
    stages: dict[str, Quantiles]
    bare: dict[str, Quantiles]
    overhead: float
    overhead_bound: float
    draw_us: float
    frames_per_s: float


def run(
    bundle: str | os.PathLike[str] | Bundle | None = None,
    *,
    frames: int = 300,
    votes: int = 1,
    frame_size: tuple[int, int] = (1280, 720),
    on_frame: Callable[[], None] | None = None,
) -> Report:
    """Measure ``frames`` frames of ``frame_size`` (width, height); ``on_frame`` is called after each.

    Raises:
        UsageError: an argument is impossible.
        BundleError, BackendError: as ``Purifier.load``.
    """
    if frames < 1:
        raise UsageError(f"frames: expected >= 1, got {frames}")
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(default_bundle() if bundle is None else bundle)
    backend = OnnxRuntimeBackend(bundle)
    frame = natural_frame(*frame_size)
    with Purifier(bundle, backend, votes=votes) as purifier:
        bare = _Bare(bundle, backend, frame, votes)
        ours_ms, bare_ms = _interleave(purifier, bare, frame, frames, on_frame)
    stages = {name: _quantiles(times) for name, times in ours_ms.items()}
    bare_stages = {name: _quantiles(times) for name, times in bare_ms.items()}
    return Report(
        bundle=bundle.manifest.name,
        backend=backend.name,
        version=backend.version,
        precision=backend.precision,
        threads=backend.threads,
        frame_width=frame_size[0],
        frame_height=frame_size[1],
        votes=votes,
        frames=frames,
        stages=stages,
        bare=bare_stages,
        overhead=stages["total"].p50_ms / bare_stages["total"].p50_ms,
        overhead_bound=OVERHEAD_BOUND,
        draw_us=_draw_us(bundle),
        frames_per_s=1e3 / float(np.mean(ours_ms["total"])),
    )


def render(report: Report) -> Table:
    """The report as a table for a terminal."""
    table = Table(
        title=f"{report.bundle}, {report.frames} frames of {report.frame_width}x{report.frame_height}, "
        f"votes {report.votes}\n"
        f"{report.backend} {report.version} {report.precision}, threads {report.threads}",
        caption=f"overhead {report.overhead:.3f} x bare (bound {report.overhead_bound})\n"
        f"{report.frames_per_s:.0f} frames/s, a draw {report.draw_us:.1f} µs",
    )
    table.add_column("ms")
    for quantile in ("p50", "p90", "p99"):
        table.add_column(quantile, justify="right")
    for prefix, stages in (("", report.stages), ("bare ", report.bare)):
        for name, times in stages.items():
            figures = (times.p50_ms, times.p90_ms, times.p99_ms)
            table.add_row(
                prefix + name, *(f"{figure:.3f}" for figure in figures), end_section=name == "total"
            )
    return table


def as_json(report: Report) -> str:
    """The report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def gate(report: Report) -> None:
    """Raise a ``GateError`` if the overhead, or a draw, is above its bound."""
    if report.draw_us > DRAW_BOUND_US:
        raise GateError(f"draw: expected at most {DRAW_BOUND_US} µs, got {report.draw_us:.1f}; {_MEND}")
    if report.overhead > report.overhead_bound:
        raise GateError(
            f"overhead: expected at most {report.overhead_bound} x bare, got {report.overhead:.3f} "
            f"({report.stages['total'].p50_ms:.3f} over {report.bare['total'].p50_ms:.3f} ms); {_MEND}"
        )


def natural_frame(width: int, height: int) -> Frame:
    """Noise of several scales, whose spectrum falls off as a photograph's: ``(height, width, 3)`` BGR."""
    frame = np.full((height, width, 3), 128, np.float32)
    for cell, weight in ((64, 0.6), (16, 0.3), (1, 0.1)):
        rows, columns = -(-height // cell), -(-width // cell)
        noise = np.frombuffer(os.urandom(rows * columns * 3), np.uint8).reshape(rows, columns, 3)
        smooth = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        frame += weight * (smooth.astype(np.float32) - 128)
    return frame.clip(0, 255).astype(np.uint8)


class _Bare:
    """The least that must be done for a frame: resize it, run a random purifier, run a random classifier.

    Its draws are its own: an engine that the other side has just run would find its weights in the cache.
    """

    def __init__(self, bundle: Bundle, backend: OnnxRuntimeBackend, frame: Frame, votes: int) -> None:
        image = bundle.manifest.image
        self._plan = plan_resize(frame.shape[0], frame.shape[1], image.height, image.width)
        self._image = Preprocessor(image)(frame)
        self._purifiers, self._classifiers = backend.bare_sessions()
        self._drawer, self._votes = Drawer(bundle.manifest), votes

    def __call__(self, frame: Frame) -> dict[str, float]:
        """Milliseconds per stage, summed over the votes."""
        draws = self._drawer.draw(self._votes)
        start = perf_counter()
        self._plan.apply(frame)
        resized = perf_counter()
        purify_s = classify_s = 0.0
        for draw in draws:
            before = perf_counter()
            feeds = {"image": self._image, **draw.random_inputs}
            purified = self._purifiers[draw.purifier].run(None, feeds)[0]
            between = perf_counter()
            self._classifiers[draw.classifier].run(None, {"image": purified})
            purify_s += between - before
            classify_s += perf_counter() - between
        total_s = perf_counter() - start
        stages_s = {"resize": resized - start, "purify": purify_s, "classify": classify_s, "total": total_s}
        return {name: seconds * 1e3 for name, seconds in stages_s.items()}


Times = dict[str, list[float]]


def _interleave(
    purifier: Purifier, bare: _Bare, frame: Frame, frames: int, on_frame: Callable[[], None] | None
) -> tuple[Times, Times]:
    """Milliseconds per stage and frame of both sides; which of them goes first alternates."""
    ours_ms: Times = {name: [] for name in ("preprocess", "draw", "purify", "classify", "total")}
    bare_ms: Times = {name: [] for name in ("resize", "purify", "classify", "total")}
    for _ in range(WARM_UP_FRAMES):
        purifier(frame)
        bare(frame)
    for index in range(frames):
        if index % 2:
            _append(bare_ms, bare(frame))
        _append(ours_ms, _timed(purifier, frame))
        if not index % 2:
            _append(bare_ms, bare(frame))
        if on_frame is not None:
            on_frame()
    return ours_ms, bare_ms


def _timed(purifier: Purifier, frame: Frame) -> dict[str, float]:
    """A frame's milliseconds per stage, the total as the caller sees it."""
    start = perf_counter()
    result = purifier(frame)
    total_ms = (perf_counter() - start) * 1e3
    timings = result.timings
    return {
        "preprocess": timings.preprocess_ms,
        "draw": timings.draw_ms,
        "purify": timings.purify_ms,
        "classify": timings.classify_ms,
        "total": total_ms,
    }


def _append(times: Times, stages: dict[str, float]) -> None:
    for name, milliseconds in stages.items():
        times[name].append(milliseconds)


def _draw_us(bundle: Bundle) -> float:
    drawer = Drawer(bundle.manifest)
    times_s = []
    for _ in range(DRAWS_TIMED):
        start = perf_counter()
        drawer.draw()
        times_s.append(perf_counter() - start)
    return float(np.median(times_s)) * 1e6


def _quantiles(times_ms: list[float]) -> Quantiles:
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99])
    return Quantiles(float(p50), float(p90), float(p99))
