"""When an attack may leave an image alone: once it has won beyond doubt.

AutoAttack stops on an image that it broke. A random defence may break by luck, so here an image counts as
settled only when **every** sub-model of several samples in a row errs on it by ``MARGIN``. With 16 purifier
passes, two classifiers and a patience of 3 these are 96 sub-models, drawn afresh from one step to the next.

Measured on the clean-trained REN of 4 x 2: PGD-20 takes 8.1 steps an image instead of 20, and PGD-40 takes
6.7 instead of 40; on an adversarially trained one 16.4 of 20. The expected accuracy, of the same images under
the same draws, was the same to the last draw each time. ARC stops where none of its members is right, after 9
visits to a member instead of 160. Two things did not pay: the same for Square, whose averaged answers are
hardly ever wrong beyond doubt (299 of 300 queries), and folding the norms into the convolutions with another
memory layout (a tenth). Blind attacks go on to the end, since their images are shown to another model.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from trainer.robustness.attacks.losses import margin
from trainer.robustness.defences.surrogates import Mean

PATIENCE = 3  # samples in a row, at least
SUB_MODELS = 24  # in a row, at least
MARGIN = 0.5  # of log-probabilities: engines round, and must not bring an answer back by it


def patience_for(sub_models: int) -> int:
    """Samples in a row that have to be lost, where each holds so many sub-models."""
    return max(PATIENCE, math.ceil(SUB_MODELS / sub_models))


class Members(Protocol):
    """A model that is the mean of sub-models."""

    n_classes: int
    mean: Mean

    def members(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Log-probabilities of every sub-model, (M, B, C)."""
        ...


class Watched:
    """The mean of ``model``'s sub-models, which notes the images that all of them get wrong.

    Attributes:
        lost: (B,) bool, of the latest call.
    """

    def __init__(self, model: Members, labels: Tensor) -> None:
        self.model, self.labels, self.n_classes = model, labels, model.n_classes
        self.lost = torch.zeros(len(labels), dtype=torch.bool)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        members = self.model.members(images, generator)  # (M, B, C)
        with torch.no_grad():
            ahead = margin(members.flatten(0, 1), self.labels.repeat(len(members)))
            self.lost = (ahead.view(len(members), -1) > MARGIN).all(0)
        return self.model.mean(members)
