"""What every family of purifiers offers, the random input that it takes, and the family that does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

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


class Purifier(Protocol):
    """A bank of K purifiers as one differentiable module.

    Attributes:
        n_purifiers: K.
        random_input: what is drawn anew for every image; None where a purifier takes nothing beside the
        image.
    """

    n_purifiers: int
    random_input: RandomSubset | None

    def __call__(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        """Purified images (B, 3, H, W) in [0, 1] of ``images`` in [0, 1].

        ``purifier`` (B,) int64 names each image's purifier; ``random_input`` is what ``RandomSubset.draw``
        gives.
        """

    def single(self, index: int) -> nn.Module:
        """Purifier ``index`` as it is exported: (image, random input) -> purified image."""

    def after_update(self, steps: int = 1) -> None:
        """Bring what is derived from the weights up to date, by ``steps`` iterations."""


class NoPurifier(nn.Module):
    """One purifier that gives the image back: it makes an undefended classifier a defence like the others."""

    n_purifiers = 1
    random_input = None

    def forward(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        return images

    def single(self, index: int) -> nn.Module:
        return nn.Identity()

    def after_update(self, steps: int = 1) -> None:
        """Nothing is derived from no weights."""
