"""Defences that protect nothing: adaptive attacks take them below 5 %, and the checks tell on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.trainer.robustness.broken import Broken, NoiseAdder, Quantizer, RandomMask
from tests.trainer.robustness.networks import LABELS, SIDE
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.defences.judges import TorchJudge
from trainer.robustness.defences.targets import Target
from trainer.robustness.evaluation.budgets import Budget
from trainer.robustness.evaluation.evaluate import Settings, evaluate
from trainer.robustness.results.markdown import render

BUDGET = Budget(
    "test",
    ("clean", "blind", "bpda-purifier", "pgd"),
    images=40,
    draws=5,
    steps=15,
    samples=6,
    check_images=40,
)


@dataclass(frozen=True)
class Case:
    """A broken defence, the rung that must break it, and the checks that must fail."""

    purifier: type[Broken]
    broken_by: str
    failed: tuple[str, ...]


CASES = [
    Case(
        Quantizer,
        "bpda-purifier",
        (
            "a huge eps leaves nothing",
            "the true gradient is no weaker than blind",
            "the true gradient is no weaker than bpda-purifier",
        ),
    ),
    Case(NoiseAdder, "pgd", ("an attack on one draw is nearly as strong",)),
    Case(RandomMask, "pgd", ("an attack on one draw is nearly as strong",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.purifier.__name__)
def test_falls_and_is_flagged(
    case: Case, undefended: Defence, digits: tuple[Images, Images], tmp_path: Path
) -> None:
    defence = Defence(case.purifier(), undefended.classifier).eval()
    target = as_target(defence, case.purifier.__name__)
    report = evaluate(target, digits[1][:40], Settings(BUDGET, Ball("linf", 0.22), tmp_path)).report
    left = {rung.name: rung.counts.expected.share for rung in report.rungs}
    assert left["clean"] > 0.6
    assert left[case.broken_by] < 0.05
    assert report.worst.counts.expected.share < 0.05
    assert set(case.failed) <= {check.name for check in report.failed_checks}
    assert render(report).startswith("> **Warning: the figures below may overstate robustness.**")


def test_an_honest_network_passes_every_check(
    hardened: Defence, digits: tuple[Images, Images], tmp_path: Path
) -> None:
    """Adversarially trained, no purifier: nothing masks its gradients, so nothing may be flagged."""
    report = evaluate(
        as_target(hardened, "hardened"), digits[1][:40], Settings(BUDGET, Ball("linf", 0.15), tmp_path)
    ).report
    assert report.worst.counts.expected.share > 0.2
    assert [check.name for check in report.failed_checks if check.name != "a huge eps leaves nothing"] == []


def as_target(defence: Defence, name: str, *, n_draws: int = 10**6) -> Target:
    return Target(
        name=name,
        digest=name,
        labels=LABELS,
        judge=TorchJudge(defence, "torch"),
        twin=defence,
        attacked="itself",
        height=SIDE,
        width=SIDE,
        provenance={},
        n_draws=n_draws,
    )
