"""A report's pictures: the ladder with its intervals, accuracy against eps, suspicion's ROC, and purified
examples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdk.errors import EdgePurifyError
from sdk.files import replacing
from trainer.data import keyed_generator
from trainer.models import Defence
from trainer.robustness.evaluation.report import Confidence, Report, Suspicion
from trainer.robustness.evaluation.steps import Outcome

EXAMPLES = 8
GREY = "#8a8a8a"
COLORS = ("#2b6cb0", "#2e7d32", GREY, "#c23b22", "#7b341e")
MARKED = 0.6  # coverage of clean images


def draw(report: Report, outcomes: dict[str, Outcome], twin: Defence | None, folder: Path) -> list[Path]:
    """Write ``ladder.png`` into ``folder``, and what was measured of ``eps.png``, ``suspicion.png``,
    ``coverage.png`` and ``examples.png``.

    Raises:
        EdgePurifyError: matplotlib is not installed.
    """
    pyplot = _pyplot()
    figures = {"ladder.png": _ladder(pyplot, report)}
    if report.by_eps:
        figures["eps.png"] = _by_eps(pyplot, report)
    if report.suspicion is not None and report.suspicion.roc:
        figures["suspicion.png"] = _roc(pyplot, report.suspicion)
    if report.confidence is not None:
        figures["coverage.png"] = _coverage(pyplot, report.confidence)
    attacked = [outcome for name, outcome in outcomes.items() if name != "clean"]
    if twin is not None and attacked:
        figures["examples.png"] = _examples(pyplot, outcomes["clean"], attacked[-1], twin)
    for name, figure in figures.items():
        with replacing(folder / name) as stream:
            figure.savefig(stream, format="png", dpi=150, bbox_inches="tight")
        pyplot.close(figure)
    return [folder / name for name in figures]


def _ladder(pyplot: Any, report: Report) -> Any:
    rungs = report.rungs if report.worst is None else (report.worst, *report.rungs)
    shares = [100 * rung.counts.expected.share for rung in rungs]
    below = [share - 100 * rung.counts.expected.low for share, rung in zip(shares, rungs, strict=True)]
    above = [100 * rung.counts.expected.high - share for share, rung in zip(shares, rungs, strict=True)]
    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(rungs) + 1.2))
    places = range(len(rungs))
    colors = [GREY if rung in report.rungs else "#c23b22" for rung in rungs]
    axes.barh(places, shares, xerr=[below, above], color=colors, capsize=3)
    axes.set_yticks(places, [rung.name for rung in rungs])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("expected accuracy, %, with 95 % interval")
    axes.set_title(f"{report.target}, {report.norm}, eps {report.eps:.4g}")
    return figure


def _by_eps(pyplot: Any, report: Report) -> Any:
    figure, axes = pyplot.subplots(figsize=(6, 4))
    eps = [at.eps for at in report.by_eps]
    axes.plot(eps, [100 * at.figure.share for at in report.by_eps], marker="o", color="#c23b22")
    axes.fill_between(
        eps,
        [100 * at.figure.low for at in report.by_eps],
        [100 * at.figure.high for at in report.by_eps],
        color="#c23b22",
        alpha=0.15,
    )
    axes.set_ylim(0, 100)
    axes.set_xlabel(f"eps, {report.norm}, images in [0, 1]")
    axes.set_ylabel("expected accuracy, %")
    axes.set_title("margin attack")
    return figure


def _roc(pyplot: Any, suspicion: Suspicion) -> Any:
    figure, axes = pyplot.subplots(figsize=(5, 5))
    for (name, roc), color in zip(suspicion.roc.items(), (GREY, "#c23b22"), strict=True):
        label = f"{name}, area {suspicion.area[name]:.2f}"
        rates = ([100 * rate for rate in part] for part in (roc.false_positive_rate, roc.true_positive_rate))
        axes.plot(*rates, color=color, label=label)
    axes.plot([0, 100], [0, 100], color="black", linewidth=0.8, linestyle=":", label="by chance")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_aspect("equal")
    axes.set_xlabel("clean images that are suspected, %")
    axes.set_ylabel("attacked images that are suspected, %")
    axes.set_title(f"suspicion, {suspicion.images} images of each kind")
    axes.legend(loc="lower right")
    return figure


def _coverage(pyplot: Any, confidence: Confidence) -> Any:
    """Risk against coverage by attack; a dot is at the threshold that accepts ``MARKED`` of clean images."""
    figure, axes = pyplot.subplots(figsize=(6, 4.5))
    for name, color in zip(confidence.error, COLORS, strict=False):
        points = [at.accepted[name] for at in confidence.thresholds]
        axes.plot([100 * p.coverage for p in points], [100 * p.risk for p in points], color=color, label=name)
        marked = min(confidence.thresholds, key=lambda at: abs(at.accepted["clean"].coverage - MARKED))
        point = marked.accepted[name]
        axes.plot(100 * point.coverage, 100 * point.risk, marker="o", color=color)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("accepted answers, %")
    axes.set_ylabel("wrong among the accepted, %")
    axes.set_title(
        f"min-score ({confidence.images} images); dots accept {100 * MARKED:.0f} % of clean images"
    )
    axes.legend()
    return figure


@torch.no_grad()
def _examples(pyplot: Any, clean: Outcome, attacked: Outcome, twin: Defence) -> Any:
    """Rows: clean, attacked, both purified under one draw each."""
    count = min(EXAMPLES, len(attacked.adversarial))
    originals, adversarial = clean.adversarial[:count], attacked.adversarial[:count]
    draws = twin.draw(count, keyed_generator("examples"))
    rows = {
        "clean": originals,
        "purified": twin.purify(originals, draws),
        attacked.step.name: adversarial,
        "purified ": twin.purify(adversarial, draws),
    }
    figure, axes = pyplot.subplots(len(rows), count, figsize=(1.1 * count, 1.1 * len(rows)), squeeze=False)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(title.strip())
        for cell, image in zip(line, images, strict=True):
            cell.imshow(_pixels(image))
            cell.set_xticks([])
            cell.set_yticks([])
    return figure


def _pixels(image: Tensor) -> Any:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise EdgePurifyError(
            "plots: matplotlib is not installed", hint="pip install 'edge-purify[train]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
