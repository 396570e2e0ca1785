"""Tables and plots of every report in docs/reports/, which ``edge-train evaluate --json`` wrote."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from trainer.robustness.evaluation.report import Report, from_json
from trainer.robustness.evaluation.statistics import Figure

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "docs" / "reports"
PLOTS = ROOT / "docs" / "images" / "reports"
SHOWN = ("clean", "ordinary", "blind", "pgd-margin", "apgd-t", "autoattack")
COVERAGES = (1.0, 0.8, 0.6, 0.4)  # of clean images
NOT_MEASURED = "-"


def reports() -> dict[str, Report]:
    """By the file's name, sorted."""
    return {path.stem: from_json(path.read_bytes()) for path in sorted(REPORTS.glob("*.json"))}


def summary() -> str:
    """Every bundle's ladder in a line: the figure to quote first, then the attacks."""
    head = ("bundle", "**worst**", *SHOWN, "images", "checks failed", "core-hours")
    rows = []
    for name, report in reports().items():
        if report.worst is None:
            continue
        rungs = {rung.name: rung for rung in report.rungs}
        cells = [_figure(rungs[each].counts.expected) if each in rungs else NOT_MEASURED for each in SHOWN]
        failed = ", ".join(check.name for check in report.failed_checks) or "none"
        worst = _figure(report.worst.counts.expected)
        rows.append(
            (
                f"`{name}`",
                f"**{worst}**",
                *cells,
                f"{report.images:,}",
                failed,
                f"{report.seconds / 3600:.1f}",
            )
        )
    return _table(head, rows)


def by_eps() -> str:
    """Accuracy under the margin attack with each bound."""
    measured = {name: {at.eps: at.figure for at in report.by_eps} for name, report in reports().items()}
    measured = {name: figures for name, figures in measured.items() if figures}
    bounds = sorted({bound for figures in measured.values() for bound in figures})
    head = ("bundle", *(f"{255 * bound:.3g}/255" for bound in bounds))
    rows = [
        (
            f"`{name}`",
            *(_percent(figures[bound].share) if bound in figures else NOT_MEASURED for bound in bounds),
        )
        for name, figures in measured.items()
    ]
    return _table(head, rows)


def coverage() -> str:
    """What ``--min-score`` gains: errors among accepted answers, by the share of clean images accepted."""
    rows = []
    for name, report in reports().items():
        if report.confidence is None:
            continue
        for wanted in COVERAGES:
            at = min(
                report.confidence.thresholds,
                key=lambda found: abs(found.accepted["clean"].coverage - wanted),
            )
            for attack, accepted in at.accepted.items():
                rows.append(
                    (
                        f"`{name}`",
                        f"{at.threshold:.2f}",
                        attack,
                        _percent(accepted.coverage),
                        _percent(accepted.risk),
                    )
                )
    if not rows:
        return "Not measured yet."
    return _table(("bundle", "`--min-score`", "attack", "accepted", "wrong among the accepted"), rows)


def draw_plots() -> None:
    """Every report's plots, by ``edge-train render``'s own command."""
    for path in sorted(REPORTS.glob("*.json")):
        out = PLOTS / path.stem
        command = [sys.executable, "-m", "trainer.cli", "render", str(path), "--out", str(out)]
        subprocess.run(command, check=True, cwd=ROOT)
        (out / "report.md").unlink()


def _figure(figure: Figure) -> str:
    return f"{100 * figure.share:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
