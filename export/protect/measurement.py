"""The quick ladder on the finished bundle, white-box, written into its manifest, card and figures."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from export.protect import outcome
from export.protect.outcome import Outcome
from sdk.bundle import Bundle
from trainer.data import Images
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.defences.targets import open_target
from trainer.robustness.evaluation.budgets import BUDGETS
from trainer.robustness.evaluation.evaluate import Settings, evaluate
from trainer.robustness.evaluation.steps import OnProgress
from trainer.robustness.results import plots
from trainer.robustness.results.publish import into_bundle, section_into_card

PLOTS = "figures"  # folder of the bundle


@dataclass(frozen=True)
class Asked:
    """The test pictures, and what the outcome says of the run; see ``Request`` and ``Outcome``."""

    images: Images
    eps: float
    seed: int
    adapt: str
    subject: str
    notes: tuple[str, ...]


def measure(folder: Path, asked: Asked, *, work: Path, on_progress: OnProgress) -> Outcome:
    """Attack the bundle in ``folder`` and write the figures into it.

    Args:
        work: folder for finished batches.

    Raises:
        EdgePurifyError: the bundle can't be read, or nothing can be attacked.
    """
    budget = msgspec.structs.replace(BUDGETS["quick"], images=len(asked.images))
    settings = Settings(budget, Ball("linf", asked.eps), work, asked.seed, on_progress=on_progress)
    with (
        tempfile.TemporaryDirectory() as plots_folder,
        open_target(folder, backend="onnxruntime", precision="fp32") as target,
    ):
        found = evaluate(target, asked.images, settings)
        drawn = plots.draw(found.report, found.outcomes, target.twin, Path(plots_folder))
        pictures = {f"{PLOTS}/{path.name}": path.read_bytes() for path in drawn}
    family = Bundle.open(folder).manifest.family
    own = outcome.of(found.report, adapt=asked.adapt, family=family, subject=asked.subject)
    into_bundle(found.report, Bundle.open(folder), quick_too=True)
    section_into_card(Bundle.open(folder), "protection", _section(own, [*pictures], asked.notes), pictures)
    return own


def _section(own: Outcome, pictures: Sequence[str], notes: Sequence[str]) -> str:
    rows = [f"| {row.attack} | {row.undefended} | {row.defended} |" for row in own.rows]
    treated = "left as it is" if own.adapt == "none" else "trained too"
    return "\n".join(
        [
            "### Before and after",
            "",
            f"Family {own.family}, the classifier {treated}.",
            "",
            "| attack | undefended | defended |",
            "|---|---|---|",
            *rows,
            "",
            *(f"- {remark}." for remark in (*outcome.remarks(own), *notes)),
            "",
            *(f"![{Path(picture).stem}]({picture})" for picture in pictures),
            "",
        ]
    )
