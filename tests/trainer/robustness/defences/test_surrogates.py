"""The attacker's models are the defence: its exact mean forward, and the stated gradient backward."""

from __future__ import annotations

import itertools

import msgspec
import pytest
import torch
from torch import Tensor

from tests.trainer.robustness.networks import REN
from trainer.data import Images
from trainer.models import Defence, Draw, build
from trainer.robustness.attacks.gradient import gradient
from trainer.robustness.attacks.losses import cross_entropy
from trainer.robustness.defences.judges import TorchJudge
from trainer.robustness.defences.surrogates import (
    BankMean,
    Frozen,
    Queries,
    Raw,
    full_gradient,
    has_shrinkage,
    identity_purifier,
    identity_shrinkage,
    straight_through,
)


@pytest.fixture
def images(digits: tuple[Images, Images]) -> Tensor:
    return next(digits[1].batches(4))[0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_mean_enumerates_the_bank(ren: Defence, images: Tensor) -> None:
    """Every purifier and every classifier once, as many times as the samples divide into the bank."""
    model = BankMean(ren, n_classes=10, samples=4)
    assert model.samples == 6
    assert model.n_members == 12
    draw = model.sample(seeded())
    assert draw.purifier.bincount().tolist() == [2, 2, 2]
    expected = []
    for row, member in itertools.product(range(6), range(2)):
        one = draw[torch.full((4,), row)]
        pair = Draw(one.purifier, torch.full((4,), member), one.random_input)
        expected.append(ren(images, pair).softmax(-1))
    mean = torch.stack(expected).mean(0)
    assert torch.allclose(model(images, seeded()).exp(), mean, atol=1e-6)


def test_members_are_the_same_one_by_one(ren: Defence, images: Tensor) -> None:
    model = BankMean(ren, n_classes=10, samples=3)
    alone = torch.stack([model.member(i, images, seeded()) for i in range(model.n_members)])
    assert torch.allclose(alone, model.members(images, seeded()), atol=1e-5)


def test_few_samples_take_a_random_part_of_the_bank(ren: Defence) -> None:
    model = BankMean(ren, n_classes=10, samples=1)
    assert {int(model.sample(seeded(seed)).purifier) for seed in range(20)} == {0, 1, 2}


def test_frozen_is_a_function_of_each_image(ren: Defence, images: Tensor) -> None:
    frozen = Frozen(BankMean(ren, n_classes=10, samples=3), seed=5)
    whole = frozen(images)
    assert torch.equal(whole, frozen(images))
    assert torch.allclose(whole[2:3], frozen(images[2:3]), atol=1e-5)


@pytest.mark.parametrize("way", [full_gradient, identity_purifier, identity_shrinkage])
def test_forward_is_the_defence_whatever_the_way_back(way: object, ren: Defence, images: Tensor) -> None:
    draw = ren.draw(4, seeded())
    assert torch.equal(way(ren, images.requires_grad_(), draw), ren.purify(images, draw))


def test_identity_purifier_has_the_classifiers_gradient(ren: Defence, images: Tensor) -> None:
    labels, draw = torch.arange(4), ren.draw(4, seeded())
    leaf = images.clone().requires_grad_()
    cross_entropy(ren.classify(identity_purifier(ren, leaf, draw), draw), labels).sum().backward()
    purified = ren.purify(images, draw).requires_grad_()
    cross_entropy(ren.classify(purified, draw), labels).sum().backward()
    assert torch.allclose(leaf.grad, purified.grad)


def test_identity_shrinkage_passes_gradients_that_shrinking_and_clamping_stop(ren: Defence) -> None:
    """Thresholds above every code: the true gradient is that of a constant colour, the way around is not."""
    blocked = ren.purifier.threshold.detach().clone()
    ren.purifier.threshold.data.fill_(1e3)
    try:
        image = torch.rand(1, 3, 16, 16, generator=seeded())
        weights = torch.randn(1, 3, 16, 16, generator=seeded(1))
        weights = weights - weights.mean(dim=(2, 3), keepdim=True)  # blind to a constant colour
        draw = ren.draw(1, seeded())
        gradients = []
        for way in (full_gradient, identity_shrinkage):
            leaf = image.clone().requires_grad_()
            (way(ren, leaf, draw) * weights).sum().backward()
            gradients.append(leaf.grad.abs().max())
    finally:
        ren.purifier.threshold.data.copy_(blocked)
    assert gradients[0] < 1e-5
    assert gradients[1] > 0.1


def test_only_a_purifier_that_shrinks_has_shrinkage(ren: Defence, undefended: Defence) -> None:
    linear = msgspec.structs.replace(REN.purifier, threshold=0.0)
    defences = (ren, build(msgspec.structs.replace(REN, purifier=linear)), undefended)
    assert [has_shrinkage(defence) for defence in defences] == [True, False, False]


def test_straight_through_is_exact_forward() -> None:
    value, other = torch.rand(5), torch.rand(5, requires_grad=True)
    passed = straight_through(value, 3 * other)
    assert torch.equal(passed, value)
    passed.sum().backward()
    assert other.grad.tolist() == [3] * 5


def test_a_model_without_gradient_gives_zero(undefended: Defence, images: Tensor) -> None:
    blind = Raw(undefended, n_classes=10, front=lambda pixels: pixels.detach())
    assert gradient(blind, images, torch.arange(4), cross_entropy, generator=seeded()).abs().max() == 0


def test_queries_see_the_judges_mean(ren: Defence, images: Tensor) -> None:
    judge = TorchJudge(ren, "torch")
    asked = Queries(judge, draws=400, n_classes=10)(images, seeded()).exp()
    exact = BankMean(ren, n_classes=10, samples=300)(images, seeded()).exp()
    assert (asked - exact).abs().max() < 0.05
