"""The number of passes that a gradient averages over follows from the gradient."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.robustness.broken import NoiseAdder
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.eot import ENOUGH, Samples, bfloat16_is_fast, choose_samples
from trainer.robustness.defences.surrogates import BankMean, mean_log

BALL = Ball("linf", 0.1)


def chosen(
    defence: Defence,
    images: Images,
    *,
    most: int = 16,
    rounded: Defence | None = None,
    may_round: bool = False,
) -> Samples:
    """``rounded`` stands for the defence in bfloat16."""

    def model_of(samples: int, *, bfloat16: bool) -> BankMean:
        of = rounded if bfloat16 and rounded is not None else defence
        return BankMean(of, n_classes=10, samples=samples, mean=mean_log, bfloat16=bfloat16)

    (pixels, labels), *_ = images[:8].batches(8)
    return choose_samples(model_of, pixels, labels, ball=BALL, most=most, seed=0, may_round=may_round)


def test_one_pass_is_enough_where_nothing_is_drawn(hardened: Defence, digits: tuple[Images, Images]) -> None:
    found = chosen(hardened, digits[1])
    assert found == Samples(1, pytest.approx(1, abs=1e-4))
    assert "1 purifier passes a step in float32" in str(found)


def test_a_noisy_gradient_takes_more_passes_up_to_the_budgets(
    ren: Defence, undefended: Defence, digits: tuple[Images, Images]
) -> None:
    masked = chosen(ren, digits[1])
    assert 1 < masked.count <= 18  # rounded up to whole banks of 3
    assert masked.cosine >= ENOUGH or masked.count >= 16
    noisy = chosen(Defence(NoiseAdder(), undefended.classifier).eval(), digits[1])
    assert noisy.count == 16
    assert noisy.cosine < masked.cosine
    assert chosen(ren, digits[1], most=3).count == 3


def test_bfloat16_is_taken_where_its_gradient_points_the_same_way(
    hardened: Defence, undefended: Defence, digits: tuple[Images, Images]
) -> None:
    assert chosen(hardened, digits[1], may_round=True).bfloat16
    assert not chosen(hardened, digits[1]).bfloat16
    assert not chosen(hardened, digits[1], may_round=True, rounded=undefended).bfloat16


def test_bfloat16_answers_as_float32_does(ren: Defence, digits: tuple[Images, Images]) -> None:
    (images, _), *_ = digits[1][:40].batches(40)
    exact, rounded = (
        BankMean(ren, n_classes=10, samples=3, bfloat16=bfloat16)(images, torch.Generator().manual_seed(0))
        for bfloat16 in (False, True)
    )
    assert rounded.dtype == torch.float32
    assert 0 < (exact.exp() - rounded.exp()).abs().max() < 0.1
    assert isinstance(bfloat16_is_fast(), bool)
