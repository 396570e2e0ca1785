"""The regression gate: a record's images, judged again, must not be recognized less often than before.

It is paired: the same images, perturbations and draws. So a point of tolerance is much, though an interval
of the same images would span several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from sdk.errors import GateError, UsageError
from trainer.data import DataSet
from trainer.robustness.defences.judges import EngineJudge, Judge
from trainer.robustness.defences.targets import Target
from trainer.robustness.evaluation.steps import OnProgress
from trainer.robustness.results.record import Record, chances, images_of

TOLERANCE = 0.01  # one point


class Change(msgspec.Struct, frozen=True):
    """Expected accuracy on one rung, in [0, 1]: recorded, and now."""

    rung: str
    before: float
    now: float

    @property
    def points(self) -> float:
        """Positive where more is recognized than before."""
        return 100 * (self.now - self.before)

    def __str__(self) -> str:
        before, now = 100 * self.before, 100 * self.now
        return f"{self.rung:<16} {before:.1f} %, now {now:.1f} %: {self.points:+.1f} points"


def hold(
    record: Record,
    target: Target,
    dataset: DataSet,
    *,
    where: str,
    on_progress: OnProgress = lambda what, done, total: None,
    on_changes: Callable[[list[Change]], object] = lambda changes: None,
) -> list[Change]:
    """What changed on each rung: the record's images, judged again; a loss is refused.

    Args:
        where: names the record in messages.
        on_changes: told of the changes, also of those that are refused.

    Raises:
        GateError: some rung lost more than a point; the message names it.
        UsageError: the record is about other images, or no engine of this precision was recorded.
    """
    precision = precision_of(target.judge)
    if precision not in record.chances:
        known = ", ".join(record.chances)
        raise UsageError(f"{where}: has no {precision} engines on record, only {known}", hint="record again")
    images, before = images_of(record, dataset, where), record.chances[precision]
    now = chances(record, target.judge, images, on_progress)
    changes = [Change(rung, float(before[rung].mean()), float(now[rung].mean())) for rung in now]
    on_changes(changes)
    lost = [change for change in changes if change.points < -100 * TOLERANCE]
    if lost:
        listed = ", ".join(f"{change.rung} {change.points:+.1f}" for change in lost)
        raise GateError(
            f"{target.name}, {precision}: recognizes fewer images than {where} has on "
            f"record, in points: {listed}; expected at most {100 * TOLERANCE:.0f} lost"
        )
    return changes


def to_json(changes: Sequence[Change]) -> bytes:
    """As indented JSON: a list of rungs, with both accuracies in [0, 1]."""
    return msgspec.json.format(msgspec.json.encode(changes), indent=1) + b"\n"


def precision_of(judge: Judge) -> str:
    """The engines' precision; ``torch`` for a checkpoint."""
    return judge.backend.precision if isinstance(judge, EngineJudge) else "torch"
