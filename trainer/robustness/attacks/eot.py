"""How many purifier passes a gradient has to average over: as many as the gradient itself asks for.

Averaging over more draws (EOT) brings an attack's gradient nearer to that of the expectation, and costs as
many passes. The number is chosen by measurement: the smallest whose mean gradient points where that of
``REFERENCE`` passes does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data import keyed_generator
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.gradient import gradient
from trainer.robustness.attacks.losses import margin
from trainer.robustness.defences.surrogates import BankMean

REFERENCE = 32  # passes
ENOUGH = 0.99  # cosine to the gradient of the reference
IMAGES = 8
PASSES = 64  # differentiated at a time


@dataclass(frozen=True)
class Samples:
    """A number of passes, and the cosine of their mean gradient to that of ``REFERENCE`` passes."""

    count: int
    cosine: float


def choose_samples(
    model_of: Callable[[int], BankMean], images: Tensor, labels: Tensor, *, ball: Ball, most: int, seed: int
) -> Samples:
    """The smallest power of two, up to ``most``, whose gradients have a mean cosine of ``ENOUGH``.

    Args:
        model_of: the defence's mean over a number of passes.
        images, labels: (B, 3, H, W) and (B,); the first ``IMAGES`` are used, at random points of ``ball``.
    """
    images, labels = images[:IMAGES], labels[:IMAGES]
    points = ball.start(images, keyed_generator(seed, "eot", "start"))
    reference = _gradients(model_of(REFERENCE), points, labels, seed, "reference")
    count = 1
    while count < most:
        cosine = torch.cosine_similarity(_gradients(model_of(count), points, labels, seed, count), reference)
        found = Samples(model_of(count).samples, float(cosine.mean()))
        if found.cosine >= ENOUGH:
            return found
        count *= 2
    cosine = torch.cosine_similarity(_gradients(model_of(most), points, labels, seed, most), reference)
    return Samples(most, float(cosine.mean()))


def _gradients(model: BankMean, points: Tensor, labels: Tensor, seed: int, key: int | str) -> Tensor:
    """Of the margin, image by image under the same draws, (B, 3 H W)."""
    size = max(1, PASSES // model.samples)
    parts = zip(points.split(size), labels.split(size), strict=True)
    found = [gradient(model, *part, margin, keyed_generator(seed, "eot", key)) for part in parts]
    return torch.cat(found).flatten(1)
