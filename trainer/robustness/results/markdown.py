"""A report as Markdown, the per-image worst first, and failed checks before everything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from trainer.robustness.evaluation.budgets import BUDGETS
from trainer.robustness.evaluation.report import Comparison, Confidence, Mixture, Report, Rung


def render(report: Report) -> str:
    """The whole report, headings from level 2."""
    return "\n".join([*_warning(report), *_headline(report), *_ladder(report), *_rest(report)]) + "\n"


def _warning(report: Report) -> Iterator[str]:
    if report.failed_checks:
        names = "; ".join(check.name for check in report.failed_checks)
        yield f"> **Warning: the figures below may overstate robustness.** Failed checks: {names}."
        yield ""


def _headline(report: Report) -> Iterator[str]:
    yield f"## Robustness of {report.target}"
    yield ""
    if report.worst is not None:
        size = f"{report.norm}, eps {_eps(report.norm, report.eps)}"
        figure = f"{report.worst.counts.expected} of {report.images}"
        yield f"**{figure} images survive the strongest attack on each** ({size})."
    else:
        figure = f"{report.rungs[0].counts.expected} of {report.images}"
        yield f"**{figure} clean images are recognized**; nothing was attacked."
    if not may_be_quoted(report.budget):
        yield "A quick look: too few images and too weak attacks for a figure to quote."
    yield (
        f"Judged by {report.judged_by}; attacked: {report.attacked}. "
        f"Budget {report.budget}, seed {report.seed}, "
        f"{report.seconds:.0f} s. Intervals are Wilson's at 95 %."
    )
    yield ""


def may_be_quoted(budget: str) -> bool:
    """Whether a report of this budget holds a figure to quote; a budget of one's own does."""
    return budget not in BUDGETS or BUDGETS[budget].is_headline


def _ladder(report: Report) -> Iterator[str]:
    rungs = report.rungs if report.worst is None else (report.worst, *report.rungs)
    yield from _rungs(rungs)
    if report.average is not None:
        average = f"{100 * report.average:.1f} %"
        yield f"Average over the single attacks, as some papers report it (don't quote it): {average}."
        yield ""
    yield "How each was made:"
    yield from (f"- {rung.name}: {rung.attack}." for rung in rungs)
    yield from (f"- {remark}." for remark in report.remarks)
    yield ""


def _rest(report: Report) -> Iterator[str]:
    if report.checks:
        verdicts = {True: "passed", False: "**failed**", None: "–"}
        rows: list[tuple[object, ...]] = [
            (c.name, verdicts[c.passed], c.found, c.expected) for c in report.checks
        ]
        yield from _table("Checks for weak attacks", ("check", "verdict", "found", "expected"), rows)
    if report.by_eps:
        rows = [(_eps(report.norm, at.eps), at.figure) for at in report.by_eps]
        yield from _table("Margin attack by eps", ("eps", "expected accuracy"), rows)
    yield from _baselines(report)
    if report.mixture is not None:
        yield from _mixture(report.mixture)
    if report.suspicion is not None:
        rows = [(name, f"{area:.3f}") for name, area in report.suspicion.area.items()]
        title = f"Suspicion, area under the ROC ({report.suspicion.images} images)"
        yield from _table(title, ("against", "area"), rows)
    if report.confidence is not None:
        yield from _confidence(report.confidence)
    if report.comparison is not None:
        yield from _comparison(report, report.comparison)


def _rungs(rungs: Sequence[Rung]) -> Iterator[str]:
    draws = rungs[0].counts.draws
    header: list[object] = [
        "attack",
        "expected accuracy",
        f"all of {draws} draws",
        f"majority of {draws}",
        "images",
        "seconds",
    ]
    rows: list[list[object]] = [
        [
            r.name,
            r.counts.expected,
            r.counts.worst,
            r.counts.majority,
            r.counts.expected.images,
            f"{r.seconds:.0f}",
        ]
        for r in rungs
    ]
    if draws == 1:  # all, the majority and the mean of one draw are one
        header, *rows = ([*row[:2], *row[4:]] for row in (header, *rows))
    yield from _table(None, header, rows)


def _baselines(report: Report) -> Iterator[str]:
    columns = list(dict.fromkeys(rung for baseline in report.baselines for rung in baseline.figures))
    rows = [(b.name, *(b.figures.get(rung, "–") for rung in columns)) for b in report.baselines]
    yield from _table("The same classifiers without the purifier", ("front", *columns), rows)


def _mixture(mixture: Mixture) -> Iterator[str]:
    rows = [
        ("fresh draws (A_mix)", mixture.mixed),
        (f"{mixture.members} fixed members (mean A_d)", mixture.alone),
        ("A_mix − mean A_d, in points, paired", mixture.gain),
    ]
    title = f"What randomness adds ({mixture.mixed.images} images, on the twin)"
    yield from _table(title, ("defence, under the strongest attack on it", "expected accuracy"), rows)
    yield "The attacks are the same for all: one on the mean of the draws, and one on each member."
    yield ""


def _confidence(confidence: Confidence) -> Iterator[str]:
    names = list(confidence.error)
    rows = [("calibration error", *(f"{100 * error:.1f} %" for error in confidence.error.values()))]
    for at in confidence.thresholds:
        clean = round(100 * at.accepted["clean"].coverage)
        if clean % 20 == 0:
            cells = [f"{100 * a.risk:.1f} % of {100 * a.coverage:.0f} %" for a in at.accepted.values()]
            rows.append((f"errors among answers of a score from {at.threshold:.2f} on", *cells))
    title = f"Scores: how often an answer is wrong, and how many are accepted ({confidence.images} images)"
    yield from _table(title, ("", *names), rows)


def _comparison(report: Report, other: Comparison) -> Iterator[str]:
    """Paired differences beside both defences' own figures."""
    rungs = {rung.name: rung for rung in (report.worst, *report.rungs) if rung is not None}
    others = {rung.name: rung for rung in (other.worst, *other.rungs) if rung is not None}
    header = ("attack", report.target, other.target, "difference in points, paired", "images")
    rows = [
        (name, rungs[name].counts.expected, others[name].counts.expected, gain,
         rungs[name].counts.expected.images)
        for name, gain in other.gain.items()
    ]  # fmt: skip
    yield from _table(f"Beside {other.target}, same images and seed", header, rows)
    yield from (f"- {other.target}, {remark}." for remark in other.remarks)


def _table(title: str | None, header: Iterable[object], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    if title:
        yield f"### {title}"
    cells = [str(cell) for cell in header]
    yield f"| {' | '.join(cells)} |"
    yield "|" + "---|" * len(cells)
    yield from (f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)
    yield ""


def _eps(norm: str, eps: float) -> str:
    return f"{255 * eps:g}/255" if norm == "linf" else f"{eps:g}"
