"""Every attack stays in its ball and in [0, 1], follows its generator, and refuses what makes no sense."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sdk.errors import UsageError
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.arc import arc
from trainer.robustness.attacks.ball import Ball, check_images, lengths
from trainer.robustness.attacks.gradient import fgsm, pgd
from trainer.robustness.attacks.losses import LOSSES, best_wrong, cross_entropy, dlr, margin
from trainer.robustness.attacks.square import square
from trainer.robustness.defences.surrogates import BankMean, Raw

LINF, L2 = Ball("linf", 0.15), Ball("l2", 1.5)
EVERY = {
    "fgsm": fgsm,
    "pgd": partial(pgd, steps=3),
    "pgd, restarts": partial(pgd, steps=2, restarts=2, loss=margin),
    "pgd, dlr": partial(pgd, steps=2, loss=dlr),
    "arc": partial(arc, steps=1),
    "square": partial(square, queries=12),
    "square, random": partial(square, queries=12, random_model=True),
}
CASES = [(name, ball) for name in EVERY for ball in (LINF, L2)]


@pytest.fixture
def batch(digits: tuple[Images, Images]) -> tuple[Tensor, Tensor]:
    return next(digits[1].batches(8))


@pytest.mark.parametrize(("name", "ball"), CASES, ids=lambda value: getattr(value, "norm", value))
def test_stays_in_the_ball_and_follows_the_generator(
    name: str, ball: Ball, ren: Defence, batch: tuple[Tensor, Tensor]
) -> None:
    model = BankMean(ren, n_classes=10, samples=3)

    def attacked(seed: int) -> Tensor:
        return EVERY[name](model, *batch, ball=ball, generator=torch.Generator().manual_seed(seed))

    found = attacked(1)
    delta = found - batch[0]
    size = delta.abs().amax() if ball.norm == "linf" else lengths(delta).amax()
    assert 0 < size <= ball.eps + 1e-5
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(found, attacked(1))
    assert name == "fgsm" or not torch.equal(found, attacked(2))


@given(st.integers(0, 2**30), st.sampled_from(["linf", "l2"]), st.floats(1e-3, 1))
def test_projection_is_inside_and_leaves_inner_points_alone(seed: int, norm: str, eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 4, 4, generator=generator)
    ball = Ball(norm, eps)
    projected = ball.project(images + torch.randn(images.shape, generator=generator), images)
    delta = projected - images
    assert (delta.abs().amax() if norm == "linf" else lengths(delta).amax()) <= eps + 1e-5
    assert torch.allclose(ball.project(projected, images), projected, atol=1e-6)


def test_pgd_reaches_zero_on_an_undefended_network(
    undefended: Defence, digits: tuple[Images, Images]
) -> None:
    images, labels = next(digits[1].batches(200))
    raw = Raw(undefended, n_classes=10)
    generator = torch.Generator().manual_seed(0)
    assert accuracy(raw, images, labels) > 0.95
    found = pgd(raw, images, labels, ball=Ball("linf", 0.3), steps=20, generator=generator)
    assert accuracy(raw, found, labels) == 0


def test_restarts_and_steps_only_help_the_attacker(hardened: Defence, batch: tuple[Tensor, Tensor]) -> None:
    raw = Raw(hardened, n_classes=10)

    def reached(**settings: int) -> float:
        found = pgd(raw, *batch, ball=LINF, generator=torch.Generator().manual_seed(0), **settings)
        return float(cross_entropy(raw(found, torch.Generator()), batch[1]).mean())

    assert reached(steps=20) > reached(steps=2)
    assert reached(steps=2, restarts=5) >= reached(steps=2)


def test_losses_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.0], [0.0, 3.0, 1.0, 2.0]])
    labels = torch.tensor([0, 2])
    assert best_wrong(logits, labels).tolist() == [1, 3]
    assert margin(logits, labels).tolist() == [-1, 2]
    assert dlr(logits, labels).tolist() == pytest.approx([-0.5, 1.0])
    assert cross_entropy(torch.zeros(1, 4), torch.tensor([1])).item() == pytest.approx(1.386294)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_ignore_a_constant(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, labels = torch.randn(5, 10), torch.arange(5)
    assert torch.allclose(loss(logits + 3, labels), loss(logits, labels), atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "eps", "reason"),
    [
        (
            "linf",
            8,
            "eps: expected at most 1, images being in .0, 1., got 8; for 8 grey levels of 255 give 8/255",
        ),
        ("linf", 0, "eps: expected a positive number, got 0"),
        ("l2", float("nan"), "eps: expected a positive number, got nan"),
        ("l1", 0.1, "norm: expected linf or l2, got 'l1'"),
    ],
)
def test_refuses_a_ball(norm: str, eps: float, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Ball(norm, eps)


GOOD = torch.rand(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (255 * GOOD + 1, [0, 1], "images: expected values in .0, 1., got .* divide them by 255"),
        (GOOD - 1, [0, 1], "images: expected values in .0, 1."),
        (GOOD * torch.nan, [0, 1], "images: expected values in .0, 1., got nan"),
        ((255 * GOOD).byte(), [0, 1], "images: expected float .B, 3, H, W., got torch.uint8"),
        (GOOD[0], [0, 1], "images: expected float .B, 3, H, W."),
        (GOOD, [0], "labels: expected one for each of the 2 images"),
        (GOOD, [0, 10], "labels: expected 0 to 9, the classes of the model, got 0 to 10"),
        (GOOD, [-1, 0], "labels: expected 0 to 9"),
    ],
)
def test_refuses_images_and_labels(images: Tensor, labels: list[int], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_images(images, torch.tensor(labels), 10)


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("pgd", {"steps": 0}, "steps: expected at least 1, got 0"),
        ("pgd", {"restarts": 0}, "restarts: expected at least 1, got 0"),
        ("arc", {"steps": 0}, "steps: expected at least 1, got 0"),
        ("square", {"queries": 0}, "queries: expected at least 1, got 0"),
    ],
)
def test_refuses_settings(
    name: str, settings: dict[str, object], reason: str, ren: Defence, batch: tuple[Tensor, Tensor]
) -> None:
    arguments = {"ball": LINF, "generator": torch.Generator(), **settings}
    with pytest.raises(UsageError, match=reason):
        EVERY[name](BankMean(ren, n_classes=10, samples=3), *batch, **arguments)


def accuracy(model: Raw, images: Tensor, labels: Tensor) -> float:
    return float((model(images, torch.Generator()).argmax(1) == labels).float().mean())
