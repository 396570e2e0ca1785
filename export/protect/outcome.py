"""Before and after: what attacks leave of the classifier alone, and of the bundle."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sdk.errors import UsageError
from trainer.robustness.evaluation.report import Report
from trainer.robustness.evaluation.statistics import Figure

UNDEFENDED = "undefended"
LIMIT_DROP = 0.04  # of clean accuracy, beyond which a reader is told


class Row(msgspec.Struct, frozen=True):
    """One attack: what it leaves of the classifier alone, and of the bundle."""

    attack: str
    undefended: Figure
    defended: Figure


class Outcome(msgspec.Struct, frozen=True):
    """What one run of ``edge-protect`` came to.

    Attributes:
        adapt: what of the classifier was trained: "none" or "classifier".
        family: of the purifier.
        images: attacked; ``eps``: linf, in the images' units.
        rows: clean, blind and adaptive.
        failed_checks: signs that the attacks were too weak.
        subject: digest of what makes two outcomes comparable: classifier, pictures, eps and images.
    """

    adapt: str
    family: str
    images: int
    eps: float
    rows: tuple[Row, ...]
    failed_checks: tuple[str, ...] = ()
    subject: str = ""


def of(report: Report, *, adapt: str, family: str, subject: str) -> Outcome:
    """The three rows of ``report``.

    Raises:
        UsageError: the report has no attack on the classifier alone.
    """
    alone = next((each.figures for each in report.baselines if each.name == UNDEFENDED), {})
    rungs = {rung.name: rung.counts.expected for rung in report.rungs}
    if report.worst is None or not {"clean", "pgd"} <= alone.keys() or "blind" not in rungs:
        raise UsageError(f"the report of {report.target} has no attack on its classifier alone")
    attacked = alone["pgd"]
    rows = (
        Row("clean", alone["clean"], rungs["clean"]),
        Row("blind", attacked, rungs["blind"]),
        Row("adaptive", attacked, report.worst.counts.expected),
    )
    failed = tuple(check.name for check in report.failed_checks)
    return Outcome(adapt, family, report.images, report.eps, rows, failed, subject)


def table(outcomes: Sequence[Outcome]) -> str:
    """Outcomes beside each other, as text: the first one's undefended figures, then each one's defended."""
    first = outcomes[0]
    titles = [
        "attack",
        UNDEFENDED,
        *(f"{each.family}, adapt {each.adapt}" if len(outcomes) > 1 else "defended" for each in outcomes),
    ]
    rows = [
        [row.attack, str(row.undefended), *(str(each.rows[place].defended) for each in outcomes)]
        for place, row in enumerate(first.rows)
    ]
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (titles, *rows)
    )


def remarks(outcome: Outcome) -> list[str]:
    """What a reader of the table should know."""
    found = [
        f"{outcome.images} test pictures, linf, eps {outcome.eps:.4f}; blind: attacks on the classifier "
        "alone; adaptive: the strongest on each picture, of attacks that know everything but the draws",
        "a quick look: 'edge-train evaluate BUNDLE --data PICTURES --budget standard' gives figures to quote",
    ]
    clean = outcome.rows[0]
    if clean.undefended.share - clean.defended.share > LIMIT_DROP:
        found.append("clean accuracy fell by more than 4 points: more --hours, or a smaller --eps, cost less")
    if outcome.failed_checks:
        found.append(
            f"the adaptive figure may be too high, checks failed: {'; '.join(outcome.failed_checks)}"
        )
    return found


def to_json(outcome: Outcome) -> bytes:
    return msgspec.json.format(msgspec.json.encode(outcome), indent=1) + b"\n"


def from_json(data: bytes) -> Outcome:
    return msgspec.json.decode(data, type=Outcome)
