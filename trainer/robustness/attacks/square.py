"""Square: random search with squares, by queries alone (Andriushchenko et al., ECCV 2020, both norms).

No gradient is asked for, so no gradient can be hidden from it: where it beats a gradient attack, that one was
weak. The packaged forms drop an image at the first lucky answer of a random model; this one asks again.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdk.errors import UsageError
from trainer.robustness.attacks.ball import Ball, check_images, lengths
from trainer.robustness.attacks.losses import margin
from trainer.robustness.defences.surrogates import Model

P_INIT = 0.8  # share of the image that a square covers at first
P_REFINE = 0.1  # the same from a given start, most of which a large square would undo
SHRINKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: when the share halves
TILES = 5  # of the l2 start, a side


def square(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    queries: int,
    generator: torch.Generator,
    random_model: bool = False,
    start: Tensor | None = None,
) -> Tensor:
    """Change one square at a time, and keep it where the margin loss rises.

    For linf a square gets plus or minus eps a channel; for l2 a bump, at the cost of another square.

    Args:
        queries: calls of ``model`` on each image, >= 1.
        random_model: on every step ask for both losses under the same fresh sample, which doubles the
            queries of a step. A lucky answer would otherwise stay unbeaten for good, and two points under
            two samples differ by the samples.
        start: (B, 3, H, W), points in the ball to search from, such as another attack's; random stripes
            (tiles in l2) where it is None.

    Returns:
        (B, 3, H, W) inside the ball and [0, 1].
    """
    check_images(images, labels, model.n_classes)
    if queries < 1:
        raise UsageError(f"queries: expected at least 1, got {queries}")
    steps = max(1, queries // 2) if random_model else queries
    first_change, changed_by_square = _FORMS[ball.norm]
    share = P_INIT if start is None else P_REFINE
    if start is None:
        start = images + first_change(images, ball, generator)
    adversarial = ball.project(start, images)
    sample = torch.Generator()
    reached = _loss(model, adversarial, labels, _drawn_from(generator, sample))
    for step in range(1, steps):
        changed = changed_by_square(adversarial, images, ball, _side(images, share, step / steps), generator)
        seed = _drawn_from(generator, sample).initial_seed()
        if random_model:
            reached = _loss(model, adversarial, labels, sample)
            sample.manual_seed(seed)
        found = _loss(model, changed, labels, sample)
        better = found >= reached
        reached = torch.where(better, found, reached)
        adversarial = torch.where(better[:, None, None, None], changed, adversarial)
    return adversarial


def _drawn_from(generator: torch.Generator, sample: torch.Generator) -> torch.Generator:
    """``sample``, seeded by ``generator``."""
    return sample.manual_seed(int(torch.randint(2**62, (), generator=generator)))


@torch.no_grad()
def _loss(model: Model, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    return margin(model(images, generator), labels)


def _side(images: Tensor, share: float, done: float) -> int:
    """Of the square in pixels, where ``done`` in [0, 1] of the steps are; it covers ``share`` at first."""
    halvings = sum(10_000 * done > shrink for shrink in SHRINKS)
    height, width = images.shape[2:]
    side = round(math.sqrt(share / 2**halvings * height * width))
    return max(1, min(side, height - 1, width - 1))


def _stripes(images: Tensor, ball: Ball, generator: torch.Generator) -> Tensor:
    """+-eps for each column and channel, (B, 3, 1, W)."""
    count, channels, _, width = images.shape
    return ball.eps * _signs((count, channels, 1, width), generator)


def _flat_square(images: Tensor, clean: Tensor, ball: Ball, side: int, generator: torch.Generator) -> Tensor:
    """``images`` with one random square each at +-eps from ``clean``, one sign a channel."""
    inside = _Window(images, side, generator).inside
    sign = _signs((*images.shape[:2], 1, 1), generator)
    return torch.where(inside, ball.project(clean + ball.eps * sign, clean), images)


def _tiles(images: Tensor, ball: Ball, generator: torch.Generator) -> Tensor:
    """A grid of bumps of random signs and orientations, of norm eps together, (B, 3, H, W)."""
    count, channels, height, width = images.shape
    across = min(TILES, height, width)
    side = min(height, width) // across
    signs = _signs((count, channels, across, across), generator)
    upright = torch.rand((count, 1, across, across), generator=generator) < 0.5
    signs, upright = (grid.repeat_interleave(side, 2).repeat_interleave(side, 3) for grid in (signs, upright))
    bump = _bump(side).repeat(across, across)
    grid = signs * torch.where(upright, bump, bump.T)
    left, top = (width - grid.shape[3]) // 2, (height - grid.shape[2]) // 2
    grid = F.pad(grid, (left, width - grid.shape[3] - left, top, height - grid.shape[2] - top))
    return ball.eps * grid / lengths(grid).clamp(min=1e-12)


def _moved_bump(images: Tensor, clean: Tensor, ball: Ball, side: int, generator: torch.Generator) -> Tensor:
    """Algorithm 3: one square each is emptied; what it held, and what eps leaves, makes a bump in another."""
    delta = images - clean
    side = min(max(side, 3) // 2 * 2 + 1, *images.shape[2:])
    window, source = _Window(images, side, generator), _Window(images, side, generator).inside
    target = window.inside
    bump = window.filled(_bump(side), generator) * _signs((*images.shape[:2], 1, 1), generator)
    unused = (ball.eps**2 - lengths(delta) ** 2).clamp(min=0) / images.shape[1]
    available = (_channel_lengths(delta * (target | source)) ** 2 + unused).sqrt()
    mixed = bump + _channel_units(delta * target)
    emptied = delta * ~source
    return ball.project(clean + torch.where(target, _channel_units(mixed) * available, emptied), clean)


_FORMS = {"linf": (_stripes, _flat_square), "l2": (_tiles, _moved_bump)}


class _Window:
    """A random square in each image."""

    def __init__(self, images: Tensor, side: int, generator: torch.Generator) -> None:
        count, _, height, width = images.shape
        top = torch.randint(height - side + 1, (count, 1), generator=generator)
        left = torch.randint(width - side + 1, (count, 1), generator=generator)
        self.side, self.row, self.column = side, torch.arange(height) - top, torch.arange(width) - left

    @property
    def inside(self) -> Tensor:
        """(B, 1, H, W), bool."""
        rows, columns = ((line >= 0) & (line < self.side) for line in (self.row, self.column))
        return (rows[:, :, None] & columns[:, None, :])[:, None]

    def filled(self, pattern: Tensor, generator: torch.Generator) -> Tensor:
        """``pattern`` (side, side) there, upright or on its side, and 0 elsewhere, (B, 1, H, W)."""
        row, column = (line.clamp(0, self.side - 1) for line in (self.row, self.column))
        patterns = torch.stack([pattern, pattern.T])
        turned = torch.randint(2, (len(row), 1, 1), generator=generator)
        return patterns[turned, row[:, :, None], column[:, None, :]][:, None] * self.inside


def _bump(side: int) -> Tensor:
    """Equation 2: a hill and a pit side by side, (side, side), of norm 1."""
    half = side // 2
    bump = torch.cat([_hill(half, side), -_hill(side - half, side)])
    result: Tensor = bump / bump.norm()
    return result


def _hill(height: int, width: int) -> Tensor:
    """Growing by 1 / k^2 at the k-th ring around its middle, from the outermost in, (height, width)."""
    rows, columns = ((torch.arange(size) - size // 2).abs() for size in (height, width))
    ring = torch.maximum(rows[:, None], columns[None, :])
    growth = 1 / torch.arange(1.0, max(height, width) // 2 + 2) ** 2
    return growth.flip(0).cumsum(0).flip(0)[ring]


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator) - 1


def _channel_lengths(images: Tensor) -> Tensor:
    result: Tensor = images.flatten(2).norm(dim=2)[:, :, None, None]  # (B, 3, 1, 1)
    return result


def _channel_units(images: Tensor) -> Tensor:
    return images / _channel_lengths(images).clamp(min=1e-12)
