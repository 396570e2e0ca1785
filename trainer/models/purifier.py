"""Base class of all families of purifiers, their random input, and the identity as a purifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RandomSubset:
    """A purifier's random input: a uniform subset, ``take`` of ``size`` positions.

    ``encoding`` is how it enters the purifier: ``mask``, float32 (B, size), 1 where a position was taken, or
    ``indices``, int64 (B, take), the positions taken in increasing order.
    """

    name: str
    size: int
    take: int
    encoding: Literal["mask", "indices"]

    def draw(self, count: int, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
        """``count`` independent subsets; ``strength`` in [0, 1] scales the share that is left out."""
        taken = round(self.size - strength * (self.size - self.take))
        order = torch.rand(count, self.size, generator=generator).argsort(dim=1)  # a permutation in each row
        if self.encoding == "mask":
            return (order < taken).float()
        return order[:, :taken].sort(dim=1).values


class PurifierBank(nn.Module):
    """Base class of a bank of K purifiers as one differentiable module.

    Attributes:
        random_input: what is drawn for every image; None where a purifier takes nothing beside the image.
    """

    random_input: RandomSubset | None = None

    @property
    def n_purifiers(self) -> int:
        """K."""
        raise NotImplementedError

    def forward(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        """Purified images (B, 3, H, W) in [0, 1].

        Args:
            images: (B, 3, H, W) in [0, 1].
            purifier: (B,) int64, the purifier of each image.
            random_input: what ``RandomSubset.draw`` gives.
        """
        raise NotImplementedError

    def unclamped(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        """As ``forward``, before clamping where the family can: a loss then has a gradient beyond [0, 1]."""
        return self.forward(images, purifier, random_input)

    def single(self, index: int) -> nn.Module:
        """Purifier ``index`` as it is exported: (image, random input) -> purified image."""
        raise NotImplementedError

    def after_update(self, steps: int = 1) -> None:
        """Update what is derived from the weights, by ``steps`` iterations; by default nothing is."""


class NoPurifier(PurifierBank):
    """The identity as a bank of one, so that an undefended classifier is a defence like the others."""

    @property
    def n_purifiers(self) -> int:
        return 1

    def forward(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        return images

    def single(self, index: int) -> nn.Module:
        return nn.Identity()
