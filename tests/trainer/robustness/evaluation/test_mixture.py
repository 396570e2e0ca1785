"""A_mix less the mean A_d: not negative, zero for a bank of equals, and absent where nothing is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trainer.robustness.helpers import as_target
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.defences.judges import TorchJudge
from trainer.robustness.defences.surrogates import BankMean
from trainer.robustness.evaluation.budgets import Budget
from trainer.robustness.evaluation.diagnostics.mixture import Member, Setting, measure
from trainer.robustness.evaluation.evaluate import Settings, evaluate
from trainer.robustness.evaluation.ladder import Climber
from trainer.robustness.evaluation.report import Mixture
from trainer.robustness.evaluation.store import Store
from trainer.robustness.results.markdown import render

BUDGET = Budget("test", ("clean", "pgd"), images=40, draws=6, steps=15, samples=6, check_images=40)


def mixture_of(defence: Defence, images: Images, folder: Path, *, n_draws: int = 1000) -> Mixture | None:
    target = as_target(defence, "it", n_draws=n_draws)
    report = evaluate(target, images[:40], Settings(BUDGET, Ball("linf", 0.15), folder)).report
    text = render(report)
    assert ("A_mix − mean A_d" in text) == (report.mixture is not None)
    return report.mixture


def test_mixing_costs_an_attacker_something_or_nothing(
    hardened: Defence, digits: tuple[Images, Images], tmp_path: Path
) -> None:
    found = mixture_of(hardened, digits[1], tmp_path)
    assert found.members == 2
    assert 0.1 < found.alone.share < 0.9
    assert found.gain.points == pytest.approx(100 * (found.mixed.share - found.alone.share))
    assert found.gain.points >= 0  # exactly: the members are the whole bank, and face the same attacks
    assert found.gain.low <= found.gain.points <= found.gain.high


def test_a_bank_of_equals_gains_nothing(
    hardened: Defence, digits: tuple[Images, Images], tmp_path: Path
) -> None:
    """Two members with the same weights are one network, whichever is drawn."""
    first, second = hardened.classifier.members
    kept = {name: value.clone() for name, value in second.state_dict().items()}
    second.load_state_dict(first.state_dict())
    try:
        found = mixture_of(hardened, digits[1], tmp_path)
    finally:
        second.load_state_dict(kept)
    assert abs(found.gain.points) <= 1.5


def test_the_mixture_faces_the_members_attacks_too(
    hardened: Defence, digits: tuple[Images, Images], tmp_path: Path
) -> None:
    """Or a weak attack on the mean, here none at all, would pass for what randomness adds."""
    few = digits[1][:40]
    pixels, labels = next(few.batches(40))
    climber = Climber(few, TorchJudge(hardened, "torch"), 1, seed=0, store=Store(tmp_path, "key"))
    found = measure(hardened, pixels, climber, Setting(Ball("linf", 0.15), steps=10, draws=4, seed=0))
    mean = BankMean(hardened, n_classes=10, samples=1)
    clean = (mean(pixels, torch.Generator()).argmax(-1) == labels).double().mean()
    assert found.alone.share < 0.9 * clean
    assert found.mixed.share < 0.9 * clean
    assert 0 <= found.gain.points < 15


def test_there_is_none_where_nothing_is_drawn(
    hardened: Defence, digits: tuple[Images, Images], tmp_path: Path
) -> None:
    assert mixture_of(hardened, digits[1], tmp_path, n_draws=1) is None


def test_a_member_never_changes_and_answers_for_itself(ren: Defence, digits: tuple[Images, Images]) -> None:
    images, _ = next(digits[1].batches(4))
    bank = BankMean(ren, n_classes=10, samples=3)
    member = Member(bank, 4, seed=7)
    assert torch.equal(member(images), member(images))
    expected = bank.members(images, torch.Generator().manual_seed(7))[4]
    assert torch.allclose(member(images), expected, atol=1e-5)
    answers = member.probabilities(images, draws=2, key=("any",))
    assert answers.shape == (2, 4, 10)
    assert torch.allclose(answers.sum(-1), torch.ones(2, 4), atol=1e-5)
