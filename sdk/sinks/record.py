"""JSON records: the result of one frame, or of one region of it, and a source's change of state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from sdk.sources.roi import Roi

if TYPE_CHECKING:
    from sdk.result import Result
    from sdk.sources import Frame, SourceEvent

TOP_LABELS = 5


class Record(msgspec.Struct, frozen=True):
    """Result of one frame or region; ``label``, ``score`` and ``top`` are null where ``error`` says why.

    ``suspicion`` is null then, too, and where it wasn't asked for. ``accepted`` is false where there is no
    decision: for a skipped frame, and where the score is too low and ``label`` is "unsure".
    """

    frame: int
    source: str
    time_s: float | None
    label: str | None
    score: float | None
    top: dict[str, float] | None  #: the most probable labels
    suspicion: float | None
    draws: list[dict[str, str]]  #: purifier and classifier, by id, one per vote; empty where they are hidden
    timings_ms: dict[str, float]
    roi: Roi | None  #: the part of the frame that was purified; null is all of it
    seeded: bool
    error: str | None
    accepted: bool = True


class EventRecord(msgspec.Struct, frozen=True):
    """A source's change of state: it stalled, failed, or came back."""

    event: str
    source: str
    reason: str | None
    at: str  #: ISO 8601, UTC


def event_record(event: SourceEvent) -> EventRecord:
    """A change of state as plain data."""
    at = datetime.fromtimestamp(event.time_s, timezone.utc).isoformat(timespec="milliseconds")
    reason = None if event.reason is None else _text(event.reason)
    return EventRecord(event.state.value, _text(event.source), reason, at)


def records(frame: Frame, results: Sequence[Result], labels: Sequence[str]) -> list[Record]:
    """The records of a frame's regions, in their order."""
    return [record(frame, result, labels) for result in results]


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
        source=_text(frame.source),
        time_s=None if frame.time_s is None else round(frame.time_s, 6),
        label=result.label,
        score=None if result.score is None else round(result.score, 6),
        top=top,
        suspicion=None if result.suspicion is None else round(result.suspicion, 6),
        draws=[{"purifier": draw.purifier_id, "classifier": draw.classifier_id} for draw in result.draws],
        timings_ms={name.removesuffix("_ms"): round(ms, 4) for name, ms in timings.items()},
        roi=result.region or frame.roi,
        seeded=result.seeded,
        error=None if result.error is None else _text(result.error),
        accepted=result.accepted and result.label is not None,
    )


def _text(name: str) -> str:
    """A file's name, or a message that holds one, as text: a name may be no UTF-8."""
    return name.encode(errors="backslashreplace").decode()
