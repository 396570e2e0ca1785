"""Square: random search with squares, by queries alone (Andriushchenko et al., ECCV 2020, linf form).

No gradient is asked for, so no gradient can be hidden from it: where it beats a gradient attack, that one was
    weak.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdk.errors import UsageError
from trainer.robustness.ball import Ball, check_images
from trainer.robustness.losses import margin
from trainer.robustness.surrogates import Model

P_INIT = 0.8  # share of the image that a square covers at first
SHRINKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: when the share halves


def square(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    queries: int,
    generator: torch.Generator,
    random_model: bool = False,
) -> Tensor:
    """Change one square at a time to plus or minus eps a channel, and keep it where the margin loss rises.

    Args:
        queries: calls of ``model`` on each image, >= 1.
        random_model: ask anew for the loss to beat on every step, which doubles the queries of a step: a
            lucky answer would otherwise stay unbeaten for good.

    Returns:
        (B, 3, H, W) inside the ball and [0, 1].
    """
    check_images(images, labels, model.n_classes)
    if ball.norm != "linf":
        raise UsageError(f"norm: Square is written for linf, got {ball.norm}")
    if queries < 1:
        raise UsageError(f"queries: expected at least 1, got {queries}")
    steps = max(1, queries // 2) if random_model else queries
    adversarial = ball.project(images + ball.eps * _stripes(images, generator), images)
    reached = _loss(model, adversarial, labels, generator)
    for step in range(1, steps):
        changed = _with_square(adversarial, images, ball, _side(images, step, steps), generator)
        if random_model:
            reached = _loss(model, adversarial, labels, generator)
        found = _loss(model, changed, labels, generator)
        better = found >= reached
        reached = torch.where(better, found, reached)
        adversarial = torch.where(better[:, None, None, None], changed, adversarial)
    return adversarial


@torch.no_grad()
def _loss(model: Model, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    return margin(model(images, generator), labels)


def _with_square(images: Tensor, clean: Tensor, ball: Ball, side: int, generator: torch.Generator) -> Tensor:
    """``images`` with one random square each at +-eps from ``clean``, one sign a channel."""
    count, channels, height, width = images.shape
    top = torch.randint(height - side + 1, (count, 1), generator=generator)
    left = torch.randint(width - side + 1, (count, 1), generator=generator)
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    inside = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]  # (B, 1, H, W)
    sign = 2.0 * torch.randint(2, (count, channels, 1, 1), generator=generator) - 1
    return torch.where(inside, ball.project(clean + ball.eps * sign, clean), images)


def _stripes(images: Tensor, generator: torch.Generator) -> Tensor:
    """+-1 for each column and channel, (B, 3, 1, W)."""
    count, channels, _, width = images.shape
    return 2.0 * torch.randint(2, (count, channels, 1, width), generator=generator) - 1


def _side(images: Tensor, step: int, steps: int) -> int:
    halvings = sum(10_000 * step / steps > shrink for shrink in SHRINKS)
    height, width = images.shape[2:]
    side = round(math.sqrt(P_INIT / 2**halvings * height * width))
    return max(1, min(side, height - 1, width - 1))
