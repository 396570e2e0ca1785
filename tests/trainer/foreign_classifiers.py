"""Classifiers as a user might bring them, right and wrong; ``test_classifiers`` names them by import path."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pooled(nn.Module):
    """Logits from the mean colour, with a batch norm that must survive the check untouched."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.norm(images).mean((2, 3)))


def one_class_short(n_classes: int) -> nn.Module:
    return Pooled(n_classes - 1)


def a_number(n_classes: int) -> int:
    return n_classes


def without_arguments() -> nn.Module:
    return Pooled(10)


def wants_grey(n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, n_classes, 3), nn.Flatten())


def two_outputs(n_classes: int) -> nn.Module:
    class Two(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, torch.zeros(1)

    return Two()


NOT_CALLABLE = 3
