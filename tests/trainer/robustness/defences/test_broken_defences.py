"""Defences that protect nothing: adaptive attacks take them below 5 %, and the checks tell on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from tests.trainer.robustness.broken import Broken, LargeLogits, NoiseAdder, Quantizer, RandomMask
from tests.trainer.robustness.helpers import as_target
from trainer.data import Images
from trainer.models import Defence
from trainer.models.purifier import NoPurifier
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.evaluation.budgets import Budget
from trainer.robustness.evaluation.evaluate import Settings, evaluate
from trainer.robustness.evaluation.report import Report
from trainer.robustness.results.markdown import render

BUDGET = Budget(
    "test",
    ("clean", "blind", "pgd-margin", "pgd", "bpda-purifier"),
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


def test_a_mildly_masking_robust_network_flatters_nothing(
    hardened: Defence, digits: tuple[Images, Images], tmp_path: Path
) -> None:
    """Cross-entropy loses its gradient on it, as it does in part on any robust network; the margin does not.

    The attacks that need no gradient of the purifier climb the same loss, so they show nothing.
    """
    masking = Defence(NoPurifier(), LargeLogits(hardened.classifier, 60)).eval()
    few, ball = digits[1][:40], Ball("linf", 0.2)
    ladder = ("clean", "blind", "pgd-margin", "pgd", "bpda-purifier")
    found = evaluate_with(ladder, masking, few, Settings(BUDGET, ball, tmp_path / "masking"))
    plain = evaluate_with(ladder, hardened, few, Settings(BUDGET, ball, tmp_path / "plain"))
    left = {rung.name: rung.counts.expected.share for rung in found.rungs}
    assert left["pgd"] > left["pgd-margin"] + 0.05
    assert left["bpda-purifier"] > left["pgd-margin"] + 0.05
    assert found.worst.counts.expected.share == pytest.approx(plain.worst.counts.expected.share, abs=0.05)
    flatters = "cross-entropy alone doesn't flatter the figure: margin"
    assert flatters not in {check.name for check in found.failed_checks}

    by_cross_entropy = evaluate_with(
        ("clean", "blind", "pgd", "bpda-purifier"), masking, few, Settings(BUDGET, ball, tmp_path / "other")
    )
    assert flatters in {check.name for check in by_cross_entropy.failed_checks}


def evaluate_with(rungs: tuple[str, ...], defence: Defence, images: Images, settings: Settings) -> Report:
    budget = msgspec.structs.replace(settings.budget, rungs=rungs)
    return evaluate(as_target(defence, "it"), images, replace(settings, budget=budget)).report
