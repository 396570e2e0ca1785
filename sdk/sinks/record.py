"""One frame's result as plain data: what a line of ``--json`` holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from sdk.sources.roi import Roi

if TYPE_CHECKING:
    from sdk.result import Result
    from sdk.sources import Frame

TOP_LABELS = 5


class Record(msgspec.Struct, frozen=True):
    """One frame's JSON line; ``label``, ``score`` and ``top`` are null where ``error`` says why.

    ``suspicion`` is null then, too, and where it wasn't asked for.
    """

    frame: int
    source: str
    time_s: float | None
    label: str | None
    score: float | None
    top: dict[str, float] | None  #: the most probable labels
    suspicion: float | None
    draws: list[dict[str, str]]  #: purifier and classifier, by id, one per vote
    timings_ms: dict[str, float]
    roi: Roi | None  #: the part of the frame that was purified; null is all of it
    seeded: bool
    error: str | None


def record(frame: Frame, result: Result, labels: Sequence[str]) -> Record:
    """A result as plain data, its figures rounded to what they mean."""
    top: dict[str, float] | None = None
    if result.probabilities is not None:
        top = {}
        order = np.argsort(-result.probabilities, kind="stable")[:TOP_LABELS]
        for i in order:  # of two classes with one name, as ImageNet has, the more probable one
            top.setdefault(labels[i], round(float(result.probabilities[i]), 6))
    timings = msgspec.to_builtins(result.timings)
    return Record(
        frame=frame.index,
        source=frame.source.encode(errors="backslashreplace").decode(),  # a file's name may be no UTF-8
        time_s=None if frame.time_s is None else round(frame.time_s, 6),
        label=result.label,
        score=None if result.score is None else round(result.score, 6),
        top=top,
        suspicion=None if result.suspicion is None else round(result.suspicion, 6),
        draws=[{"purifier": draw.purifier_id, "classifier": draw.classifier_id} for draw in result.draws],
        timings_ms={name.removesuffix("_ms"): round(ms, 4) for name, ms in timings.items()},
        roi=frame.roi,
        seeded=result.seeded,
        error=result.error,
    )
