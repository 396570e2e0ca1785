"""What a budget makes of a norm and of a target: step sizes, sweeps, and rungs that are left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sdk.errors import UsageError
from tests.trainer.robustness.helpers import as_target
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.autoattack import autoattack
from trainer.robustness.attacks.ball import Ball, lengths
from trainer.robustness.defences.surrogates import Raw
from trainer.robustness.evaluation.budgets import BUDGETS, Budget
from trainer.robustness.evaluation.rungs import Climb, Rungs
from trainer.robustness.evaluation.steps import Batch

TINY_STEP = Budget("test", ("pgd",), images=4, steps=10, samples=2, step_size=1e-3, sweep=(0.1,))


@pytest.mark.parametrize(("norm", "eps", "reaches"), [("linf", 0.2, 0.21), ("l2", 2.0, 2.0)])
def test_a_step_size_of_linf_is_no_length_in_l2(
    norm: str, eps: float, reaches: float, undefended: Defence, digits: tuple[Images, Images]
) -> None:
    """Ten steps of 0.001 from a random start stay near it; in l2 the attack has to reach the ball's rim."""
    rungs = Rungs(as_target(undefended, "it"), TINY_STEP, Ball(norm, eps), 4)
    step = rungs.gradient_step("pgd", Climb(loss="cross-entropy"))
    images, labels = next(digits[1].batches(4))
    changes = step.attack(Batch(images, labels, images, torch.Generator().manual_seed(0))) - images
    if norm == "linf":
        assert changes.abs().mean() < 0.6 * eps
    else:
        assert lengths(changes).max() == pytest.approx(reaches, rel=0.05)


def test_an_ordinary_classifier_is_attacked_in_place_of_the_target(
    undefended: Defence, hardened: Defence, digits: tuple[Images, Images]
) -> None:
    budget = Budget("test", ("clean", "ordinary"), images=64, steps=10)
    target, ordinary = as_target(hardened, "the defence"), as_target(undefended, "the ordinary one")
    (clean,), remarks = Rungs(target, budget, Ball("linf", 0.2), 64).steps()
    assert (clean.name, remarks) == ("clean", [])

    steps, _ = Rungs(target, budget, Ball("linf", 0.2), 64, ordinary=ordinary).steps()
    images, labels = next(digits[1].batches(64))
    attacked = steps[1].attack(Batch(images, labels, images, torch.Generator().manual_seed(0)))
    assert "the ordinary one" in steps[1].says
    assert (attacked - images).abs().max() <= 0.2 + 1e-6
    assert ordinary.digest in steps[1].made

    def right(seen: torch.Tensor) -> float:
        with torch.no_grad():
            return float((undefended.classifier.all_logits(seen).mean(0).argmax(1) == labels).float().mean())

    assert right(images) > 0.8
    assert right(attacked) < 0.2


def test_the_sweep_of_l2_is_in_parts_of_its_eps() -> None:
    standard = BUDGETS["standard"]
    sweep = [ball.eps for ball in standard.sweep_of(Ball("linf", 8 / 255))]
    assert sweep == [eps / 255 for eps in (1, 2, 4, 6, 12, 16)]
    assert standard.sweep_of(Ball("l2", 0.4)) == (Ball("l2", 0.1), Ball("l2", 0.2), Ball("l2", 0.8))
    assert BUDGETS["quick"].sweep_of(Ball("l2", 0.4)) == ()


def test_an_l2_eps_on_the_255_scale_is_refused() -> None:
    Ball("l2", 27.7).check_reach(16, 16)
    Ball("linf", 1.0).check_reach(1, 1)
    with pytest.raises(UsageError, match=r"at most 27\.71, no image of 16 x 16 .* got 128; 128/255 is usual"):
        Ball("l2", 128.0).check_reach(16, 16)


@pytest.mark.parametrize(("n_classes", "is_left_out"), [(2, True), (3, True), (4, False)])
def test_autoattack_is_left_out_below_four_classes(
    n_classes: int, is_left_out: bool, undefended: Defence
) -> None:
    target = replace(as_target(undefended, "it"), labels=tuple("abcd"[:n_classes]))
    budget = Budget("test", ("clean", "autoattack"), images=4)
    steps, remarks = Rungs(target, budget, Ball("linf", 0.1), 4).steps()
    assert ([step.name for step in steps] == ["clean"]) == is_left_out
    assert (remarks == ["autoattack: left out, its targeted losses need four classes"]) == is_left_out


def test_autoattack_itself_refuses_three_classes(undefended: Defence) -> None:
    images, labels = torch.zeros(1, 3, 16, 16), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(UsageError, match="AutoAttack: expected at least 4 classes, got 3"):
        autoattack(
            Raw(undefended, n_classes=3),
            images,
            labels,
            ball=Ball("linf", 0.1),
            generator=torch.Generator(),
        )
