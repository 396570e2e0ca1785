"""Two defences on the same images: paired, each under the attacks on itself, and by what judges it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sdk.errors import UsageError
from tests.trainer.robustness.helpers import as_target
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.defences.targets import open_target
from trainer.robustness.evaluation.budgets import BUDGETS, Budget
from trainer.robustness.evaluation.evaluate import Settings, evaluate
from trainer.robustness.evaluation.report import from_json, to_json
from trainer.robustness.results.markdown import render

BALL = Ball("linf", 0.2)


@pytest.fixture(scope="module")
def few(digits: tuple[Images, Images]) -> Images:
    return digits[1][:30]


def test_beside_another_defence_on_the_same_images(ren_bundle: Path, few: Images, tmp_path: Path) -> None:
    budget = Budget("test", ("clean", "pgd"), images=8, draws=3, steps=3, samples=3)
    with open_target(ren_bundle) as target:
        report = evaluate(target, few[:8], Settings(budget, BALL, tmp_path), against=target).report
    assert set(report.comparison.gain) == {"per-image worst", "clean", "pgd"}
    assert {gain.points for gain in report.comparison.gain.values()} == {0.0}
    assert "### Beside ren-digits, same images and seed" in render(report)
    assert from_json(to_json(report)) == report


def test_seconds_are_those_of_all_runs(ren_bundle: Path, few: Images, tmp_path: Path) -> None:
    """A resumed evaluation says what it took, not what was left of it."""
    settings = Settings(
        Budget("test", ("clean", "pgd"), images=8, draws=3, steps=3, samples=3), BALL, tmp_path
    )
    with open_target(ren_bundle) as target:
        first, second = (evaluate(target, few[:8], settings).report for _ in range(2))
    assert second.seconds > sum(rung.seconds for rung in first.rungs)
    assert [rung.seconds for rung in second.rungs] == [rung.seconds for rung in first.rungs]


def test_a_stronger_twin_beside_is_paired_with_its_interval(
    hardened: Defence, ren_bundle: Path, few: Images, tmp_path: Path
) -> None:
    """Adversarially trained, at equal cost: what a clean-trained REN is to be held against."""
    other = as_target(hardened, "hardened", n_draws=2)
    budget = Budget("test", ("clean", "bpda-shrinkage", "pgd"), images=30, draws=4, steps=8, samples=3)
    with open_target(ren_bundle) as target:
        report = evaluate(target, few, Settings(budget, BALL, tmp_path), against=other).report
    gain = report.comparison.gain["pgd"]
    ours, theirs = report.rungs[-1].counts.expected.share, report.comparison.rungs[-1].counts.expected.share
    assert gain.points == pytest.approx(100 * (ours - theirs))
    assert gain.low < gain.points < gain.high < 0
    assert "bpda-shrinkage" not in report.comparison.gain
    text = render(report)
    assert f"| {gain} |" in text
    assert "- hardened, bpda-shrinkage: left out, the purifier has no shrinkage." in text
    assert "- hardened, draws: 4 an image, of which at most 2 are different." in text
    assert "- hardened, judged by torch." in text
    assert {rung.counts.draws for rung in report.comparison.rungs} == {4}


def test_another_defence_that_does_not_fit_is_refused_before_the_work(
    undefended: Defence, few: Images, tmp_path: Path
) -> None:
    told: list[str] = []
    settings = Settings(BUDGETS["clean"], BALL, tmp_path, on_progress=lambda what, *_: told.append(what))
    other = replace(as_target(undefended, "b"), height=32, width=32)
    with pytest.raises(UsageError, match="b expects 32 x 32 pixels, got 16 x 16"):
        evaluate(as_target(undefended, "a"), few, settings, against=other)
    assert told == []
