"""Purifiers that are known to protect nothing, each hiding gradients in a way of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.trainer.robustness.networks import SIDE
from trainer.models.purifier import RandomSubset


class Broken(nn.Module):
    """One purifier without a random input."""

    n_purifiers = 1
    random_input: object = None


class Quantizer(Broken):
    """Rounds to four grey levels: its gradient is zero wherever it exists."""

    def forward(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        return (images * 3).round() / 3


@dataclass(frozen=True)
class Noise:
    """A random input of independent normal numbers."""

    size: int

    def draw(self, count: int, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
        return strength * torch.randn(count, self.size, generator=generator)


class NoiseAdder(Broken):
    """Adds noise of twice the perturbation's size."""

    random_input = Noise(3 * SIDE * SIDE)

    def forward(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        return (images + 0.4 * random_input.view_as(images)).clamp(0, 1)


class RandomMask(Broken):
    """Blackens a random half of the pixels."""

    random_input = RandomSubset("mask", SIDE * SIDE, SIDE * SIDE // 2, "mask")

    def forward(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        return images * random_input.view(-1, 1, SIDE, SIDE)


class LargeLogits(nn.Module):
    """A classifier whose logits are so large that cross-entropy has no gradient left where it is sure.

    Its answers are those of the classifier given, and so is its robustness.
    """

    def __init__(self, classifier: nn.Module, scale: float) -> None:
        super().__init__()
        self.classifier, self.scale = classifier, scale
        self.n_classes, self.n_classifiers = classifier.n_classes, classifier.n_classifiers

    def forward(self, images: Tensor, member: Tensor) -> Tensor:
        return self.scale * self.classifier(images, member)

    def all_logits(self, images: Tensor) -> Tensor:
        return self.scale * self.classifier.all_logits(images)
