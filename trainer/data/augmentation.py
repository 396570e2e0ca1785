"""Data augmentation: each image shifted and mirrored at random, in one gather, and exposed otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(
    pixels: Tensor,
    *,
    crop_padding: int,
    flip: bool,
    brightness: float = 0.0,
    contrast: float = 0.0,
    generator: torch.Generator,
) -> Tensor:
    """Shift each image by up to ``crop_padding`` pixels (zeros move in) and mirror half of them.

    Then multiply it by a factor of 1 ± ``brightness``, and its distance from its own mean by one of
    1 ± ``contrast``, drawn for each image; what leaves [0, 1] is clipped.

    uint8 (B, 3, H, W) to float32 in [0, 1].
    """
    count, _, height, width = pixels.shape
    offsets = torch.randint(2 * crop_padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    padded = F.pad(pixels, (crop_padding,) * 4)
    rows = offsets[0] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    if flip:
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + offsets[1]
    image = torch.arange(count)[:, None, None]
    shifted = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
    found = shifted.permute(0, 3, 1, 2).float() / 255
    if brightness:
        found = (found * _factors(count, brightness, generator)).clamp_(0, 1)
    if contrast:
        mean = found.mean(dim=(1, 2, 3), keepdim=True)
        found = torch.lerp(mean, found, _factors(count, contrast, generator)).clamp_(0, 1)
    return found


def _factors(count: int, spread: float, generator: torch.Generator) -> Tensor:
    """Uniform in 1 ± ``spread``, (count, 1, 1, 1)."""
    return 1 + spread * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
