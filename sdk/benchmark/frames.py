"""Latency of one frame: by stage, of pre-processing, by votes, and by the size of the bank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from time import perf_counter

import cv2
import numpy as np

from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.benchmark.report import Bank, InPrecision, Preprocess, Stages, Votes
from sdk.benchmark.subject import Subject, with_bank_of
from sdk.benchmark.turns import Bare, Side, by_stage, centre, ours, quantiles, take_turns, timed
from sdk.bundle import Bundle
from sdk.draw import Drawer
from sdk.preprocess import Preprocessor
from sdk.purifier import Purifier

VOTES = (1, 3, 5)
BANKS = (1, 4, 8)
DRAWS_TIMED = 2000
VOTES_SHARE = 2  # several draws a frame: half of the frames
IN_A_ROW = 10  # frames of one bank, so that it has the caches to itself, as a device's one bank has


def stages(subject: Subject) -> Stages:
    """Each stage of a frame, against the bare resize and sessions."""
    sides: dict[str, Side] = {
        "ours": ours(subject.purifier(subject.votes), subject.frame),
        "bare": Bare(subject, subject.votes),
    }
    times = take_turns(sides, subject.frames)
    bare = by_stage(times["bare"])
    engines = sorted(bare.keys() - {"resize", "purify", "classify", "total"})
    return Stages(
        votes=subject.votes,
        ours=by_stage(times["ours"]),
        bare={name: bare[name] for name in ("resize", "purify", "classify", "total")},
        engines={name: bare[name] for name in engines},
        draw_us=_draw_us(subject.bundle),
        frames_per_s=1e3 / float(np.mean(times["ours"]["total"])),
    )


def preprocess(subject: Subject) -> Preprocess:
    """Pre-processing of a frame, against one plain ``INTER_AREA`` of its full centre."""
    image, frame = subject.bundle.manifest.image, subject.frame
    prepare = Preprocessor(image)
    side = min(frame.shape[0] / image.height, frame.shape[1] / image.width)
    whole = centre(frame, int(side * image.width), int(side * image.height))
    size = (image.width, image.height)
    sides = {
        "ours": timed(lambda: prepare(frame)),
        "full_centre": timed(lambda: cv2.resize(whole, size, interpolation=cv2.INTER_AREA)),
    }
    times = take_turns(sides, subject.frames)
    return Preprocess(*(quantiles(times[name]["total"]) for name in sides))


def votes(subject: Subject) -> tuple[Votes, ...]:
    """Frames under 1, 3 and 5 draws, against as many bare sessions."""
    return tuple(_voting(subject, count) for count in VOTES)


def banks(subject: Subject) -> tuple[Bank, ...]:
    """Frames with 1, 4 and 8 purifiers to draw from, each bank with sessions of its own."""
    with ExitStack() as stack:
        sides = {}
        for count in BANKS:
            bundle = with_bank_of(subject.bundle, count)
            backend = OnnxRuntimeBackend(bundle, subject.backend.precision)
            stack.enter_context(closing(backend))
            sides[str(count)] = ours(Purifier(bundle, backend), subject.frame)
        times = take_turns(sides, max(subject.frames // IN_A_ROW, 1), calls=IN_A_ROW)
    return tuple(Bank(count, quantiles(times[str(count)]["total"])) for count in BANKS)


def precisions(subject: Subject) -> tuple[InPrecision, ...]:
    """Frames in each precision of the bundle, on the graphs that a CPU runs."""
    bundle = subject.bundle
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for precision in bundle.manifest.precisions:
            backend = OnnxRuntimeBackend(bundle, precision)
            stack.enter_context(closing(backend))
            sides[precision] = ours(Purifier(bundle, backend), subject.frame)
        times = take_turns(sides, max(subject.frames // IN_A_ROW, 1), calls=IN_A_ROW)
    return tuple(
        InPrecision(
            precision=precision,
            graphs="cpu" if any(precision in engine.cpu for engine in bundle.manifest.engines) else "gpu",
            frame=quantiles(times[precision]["total"]),
            engines=quantiles(_sums(times[precision]["purify"], times[precision]["classify"])),
        )
        for precision in bundle.manifest.precisions
    )


def _sums(first: list[float], second: list[float]) -> list[float]:
    return [one + other for one, other in zip(first, second, strict=True)]


def _voting(subject: Subject, count: int) -> Votes:
    sides: dict[str, Side] = {
        "ours": ours(subject.purifier(count), subject.frame),
        "bare": Bare(subject, count),
    }
    times = take_turns(sides, max(subject.frames // VOTES_SHARE, 1))
    return Votes(count, quantiles(times["ours"]["total"]), quantiles(times["bare"]["total"]))


def _draw_us(bundle: Bundle) -> float:
    return float(np.median(list(_draws_us(bundle))))


def _draws_us(bundle: Bundle) -> Iterator[float]:
    drawer = Drawer(bundle.manifest)
    for _ in range(DRAWS_TIMED):
        start = perf_counter()
        drawer.draw()
        yield (perf_counter() - start) * 1e6
