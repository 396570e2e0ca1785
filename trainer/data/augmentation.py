"""Data augmentation: a random shift and mirroring of each image, applied to a batch in one gather."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(pixels: Tensor, *, crop_padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``crop_padding`` pixels (zeros move in) and mirror half of them.

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
    return shifted.permute(0, 3, 1, 2).float() / 255
