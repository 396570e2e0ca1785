"""Pictures made by rule, so that an export can be checked and a golden output stored without any data set."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def synthetic_images(count: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Natural-looking pictures: noise with a photograph's 1/f spectrum, cut by one straight edge each.

    The last is plain black where there are several: a covered lens, and the place where a division by a
    contrast of nothing would show.

    Returns:
        (count, 3, height, width) uint8 RGB, the same for the same arguments.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, height, width)
    for cells in (2, 4, 8, 16):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        images += F.interpolate(noise, (height, width), mode="bilinear", align_corners=False) / cells
    images += _edges(count, height, width, generator)
    images -= images.mean(dim=(1, 2, 3), keepdim=True)
    images = 0.5 + 0.22 * images / images.std(dim=(1, 2, 3), keepdim=True)
    if count > 1:
        images[-1] = 0
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _edges(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A half-plane at a random angle and offset, in a random colour: (count, 3, height, width)."""
    angle, offset = torch.rand(2, count, 1, 1, 1, generator=generator)
    colour = 0.5 * torch.randn(count, 3, 1, 1, generator=generator)
    y = torch.linspace(-1, 1, height).view(height, 1)
    x = torch.linspace(-1, 1, width)
    angle = 2 * math.pi * angle
    inside = x * angle.cos() + y * angle.sin() > offset - 0.5  # (count, 1, height, width)
    return torch.where(inside, colour, torch.zeros(()))
