"""Timing by turns: all sides run alternately, so a busy machine slows them alike.

A side is called once per frame and returns its own milliseconds, by stage. Ratios between sides are more
reliable than the times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import cv2
import numpy as np

from sdk.arrays import Pixels
from sdk.benchmark.report import Quantiles
from sdk.benchmark.subject import Subject
from sdk.draw import Drawer
from sdk.preprocess import Preprocessor
from sdk.purifier import Purifier

WARM_UP = 5  # calls of each side before the first that counts

Milliseconds = dict[str, float]
Side = Callable[[], Milliseconds]
Times = dict[str, list[float]]


def take_turns(sides: Mapping[str, Side], turns: int, *, calls: int = 1) -> dict[str, Times]:
    """Call every side ``turns`` × ``calls`` times, ``calls`` in a row; who goes first alternates.

    Returns:
        Each side's milliseconds by stage, a list over the calls in which the stage occurred.
    """
    for side in sides.values():
        for _ in range(WARM_UP):
            side()
    times: dict[str, Times] = {name: {} for name in sides}
    order = list(sides)
    for _ in range(turns):
        for name in order:
            for _ in range(calls):
                for stage, milliseconds in sides[name]().items():
                    times[name].setdefault(stage, []).append(milliseconds)
        order.reverse()
    return times


def quantiles(times_ms: list[float]) -> Quantiles:
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99])
    return Quantiles(float(p50), float(p90), float(p99))


def by_stage(times: Times) -> dict[str, Quantiles]:
    return {stage: quantiles(times_ms) for stage, times_ms in times.items()}


def timed(work: Callable[[], object]) -> Side:
    """A side that is one piece of work: its "total"."""

    def side() -> Milliseconds:
        start = perf_counter()
        work()
        return {"total": (perf_counter() - start) * 1e3}

    return side


def ours(purifier: Purifier, frame: Pixels) -> Side:
    """A frame through a purifier, its total as the caller sees it."""

    def side() -> Milliseconds:
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

    return side


class Bare:
    """The least that must be done for a frame: resize it, run a random purifier, run a random classifier.

    The resize is one ``INTER_AREA`` of the largest centred rectangle that is an integer multiple of the
    engines' image; the sessions are called directly on an image that is ready. Its draws are its own: an
    engine that the other side has just run would find its weights in the cache.
    """

    def __init__(self, subject: Subject, votes: int) -> None:
        image = subject.bundle.manifest.image
        self._size = (image.width, image.height)
        self._crop = integer_crop(subject.frame, *self._size)
        self._image = Preprocessor(image)(subject.frame)
        self._purifiers, self._classifiers = subject.backend.bare_sessions()
        self._drawer, self._votes = Drawer(subject.bundle.manifest), votes

    def __call__(self) -> Milliseconds:
        """Milliseconds of resize, purify, classify and "total", summed over the votes, and of each engine."""
        draws = self._drawer.draw(self._votes)
        start = perf_counter()
        cv2.resize(self._crop, self._size, interpolation=cv2.INTER_AREA)
        spent = {"resize": perf_counter() - start, "purify": 0.0, "classify": 0.0}
        for draw in draws:
            before = perf_counter()
            purified = self._purifiers[draw.purifier].run(None, {"image": self._image, **draw.random_inputs})[
                0
            ]
            between = perf_counter()
            self._classifiers[draw.classifier].run(None, {"image": purified})
            after = perf_counter()
            spent["purify"] += between - before
            spent["classify"] += after - between
            spent[draw.purifier_id], spent[draw.classifier_id] = between - before, after - between
        spent["total"] = perf_counter() - start
        return {name: seconds * 1e3 for name, seconds in spent.items()}


def integer_crop(frame: Pixels, width: int, height: int) -> Pixels:
    """The largest centred view of ``frame`` whose sides are one integer times ``width`` and ``height``."""
    factor = min(frame.shape[0] // height, frame.shape[1] // width)
    return centre(frame, factor * width, factor * height)


def centre(frame: Pixels, width: int, height: int) -> Pixels:
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]
