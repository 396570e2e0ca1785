"""Stopping on an image that is lost: for certain, and without a change of the figures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdk.errors import UsageError
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.gradient import pgd
from trainer.robustness.attacks.settled import MARGIN, PATIENCE, Watched
from trainer.robustness.defences.judges import TorchJudge
from trainer.robustness.defences.surrogates import BankMean, log_mean
from trainer.robustness.evaluation.statistics import chance

BALL = Ball("linf", 0.2)


class Given:
    """Three sub-models whose log-probabilities are given, and do not depend on the images."""

    n_classes = 2
    mean = staticmethod(log_mean)

    def __init__(self, members: list[list[list[float]]]) -> None:
        self.given = torch.tensor(members)

    def members(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.given


class Counting(BankMean):
    """Counts the images that it is asked for."""

    asked = 0

    def members(self, images: Tensor, generator: torch.Generator) -> Tensor:
        self.asked += len(images)
        return super().members(images, generator)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_lost_is_what_every_sub_model_gets_wrong_by_the_margin() -> None:
    clear, narrow, right = [-2.0, -2 + 2 * MARGIN], [-2.0, -2 + MARGIN / 2], [-1.0, -2.0]
    images = [[clear, clear, clear], [clear, clear, narrow], [clear, clear, right]]
    members = [[image[m] for image in images] for m in range(3)]  # (M, B, C); the label is 0
    watched = Watched(Given(members), torch.zeros(3, dtype=torch.int64))
    mean = watched(torch.zeros(3, 3, 4, 4), seeded())
    assert watched.lost.tolist() == [True, False, False]
    assert torch.allclose(mean.exp(), torch.tensor(members).exp().mean(0))


@pytest.mark.parametrize("network", ["ren", "hardened"])
def test_the_figure_is_that_of_all_steps_at_less_cost(
    network: str, digits: tuple[Images, Images], request: pytest.FixtureRequest
) -> None:
    """On a network that all images lose, and on one that keeps about half."""
    defence: Defence = request.getfixturevalue(network)
    images, labels = next(digits[1].batches(150))

    def attacked(patience: int | None) -> tuple[float, int]:
        model = Counting(defence, n_classes=10, samples=3)
        found = pgd(
            model, images, labels, ball=BALL, steps=20, generator=seeded(), step_size=0.03, patience=patience
        )
        assert (found - images).abs().max() <= BALL.eps + 1e-6
        answers = TorchJudge(defence, "").probabilities(found, draws=20, key=(0,)).argmax(-1)
        # without patience, PGD asks for the mean, which counts the same
        return float(chance(answers, labels).mean()), model.asked

    everything, whole_cost = attacked(None)
    stopped, cost = attacked(PATIENCE)
    assert whole_cost == 20 * 150
    assert cost < (0.6 if network == "ren" else 0.95) * whole_cost
    assert abs(stopped - everything) <= 0.01


def test_refuses_no_patience_at_all(ren: Defence, digits: tuple[Images, Images]) -> None:
    model = BankMean(ren, n_classes=10, samples=3)
    with pytest.raises(UsageError, match="patience: expected at least 1, got 0"):
        pgd(model, *next(digits[1].batches(2)), ball=BALL, steps=2, generator=seeded(), patience=0)
