"""The per-image worst: the strongest attack on each image, chosen on other draws than it is scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.robustness.evaluation.report import Rung
from trainer.robustness.evaluation.statistics import chance, count
from trainer.robustness.evaluation.steps import Outcome


@dataclass(frozen=True)
class Worst:
    """The strongest attack on each image: the rung, and the answers (D, N) to it that score."""

    rung: Rung
    scored: Tensor


def per_image_worst(outcomes: Sequence[Outcome], labels: Tensor) -> Worst:
    """The strongest attack on each image, and among equals the one that is strongest on all of its images.

    An image that a rung left out is judged by the others.
    """
    places = strongest_places(outcomes, labels)
    answers = torch.stack([outcomes[place].scored[:, row] for row, place in enumerate(places)], dim=1)
    ranked = sorted(range(len(outcomes)), key=lambda place: _overall(outcomes[place], labels))
    shares = {outcomes[place].step.name: 100 * places.count(place) / len(labels) for place in ranked}
    says = "for each image the strongest of " + ", ".join(
        f"{name} {share:.0f} %" for name, share in shares.items()
    )
    seconds = sum(outcome.seconds for outcome in outcomes)
    return Worst(Rung("per-image worst", says, count(answers, labels), seconds), answers)


def strongest_places(outcomes: Sequence[Outcome], labels: Tensor) -> list[int]:
    """For each image the place in ``outcomes`` of the strongest attack on it.

    Of attacks that are as strong, first an attack of its own before one that took another rung's image over,
    then the one that leaves less over all of its images.
    """
    ranked = sorted(
        range(len(outcomes)),
        key=lambda place: (outcomes[place].step.survivors is not None, _overall(outcomes[place], labels)),
    )
    chances = torch.full((len(ranked), len(labels)), torch.inf, dtype=torch.float64)
    for row, place in enumerate(ranked):
        reached = _chosen_chance(outcomes[place], labels)
        chances[row, : len(reached)] = reached
    return [ranked[row] for row in chances.argmin(0).tolist()]  # of equals the first


def _overall(outcome: Outcome, labels: Tensor) -> float:
    return float(_chosen_chance(outcome, labels).mean())


def _chosen_chance(outcome: Outcome, labels: Tensor) -> Tensor:
    return chance(outcome.chosen, labels[: len(outcome)])
