"""How many purifier passes a gradient has to average over: as many as the gradient itself asks for.

Averaging over more draws (EOT) brings an attack's gradient nearer to that of the expectation, and costs as
many passes. The number is chosen by measurement: the smallest whose mean gradient points where that of
``REFERENCE`` passes in float32 does. So is the number format: bfloat16, where the CPU is faster in it, if the
gradient still points there. Only attacks compute in it; what judges them never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
ROUNDING = 0.005  # of the cosine, that bfloat16 may cost where no number of passes is enough


@dataclass(frozen=True)
class Samples:
    """How many passes, in which format, and the cosine of their mean gradient to the reference's."""

    count: int
    cosine: float
    bfloat16: bool = False

    def __str__(self) -> str:
        number_format = "bfloat16" if self.bfloat16 else "float32"
        return (
            f"{self.count} purifier passes a step in {number_format}, whose mean gradient "
            f"has a cosine of {self.cosine:.3f} to that of {REFERENCE} in float32"
        )


def bfloat16_is_fast() -> bool:
    """Whether this CPU has instructions for bfloat16, without which it is slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


class ModelOf(Protocol):
    """Gives the defence's mean over a number of passes."""

    def __call__(self, samples: int, *, bfloat16: bool) -> BankMean: ...


def choose_samples(
    model_of: ModelOf,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    most: int,
    seed: int,
    may_round: bool,
) -> Samples:
    """The smallest power of two, up to ``most``, whose gradients have a mean cosine of ``ENOUGH``.

    Args:
        images, labels: (B, 3, H, W) and (B,); the first ``IMAGES`` are used, at random points of ``ball``.
        may_round: take bfloat16 where it is as good.
    """
    images, labels = images[:IMAGES], labels[:IMAGES]
    points = ball.start(images, keyed_generator(seed, "eot", "start"))

    def gradients(samples: int, key: int | str, *, bfloat16: bool = False) -> Tensor:
        """Of the margin, image by image under the same draws, (B, 3 H W)."""
        model = model_of(samples, bfloat16=bfloat16)
        size = max(1, PASSES // model.samples)
        parts = zip(torch.split(points, size), torch.split(labels, size), strict=True)
        found = [
            gradient(model, *part, margin, generator=keyed_generator(seed, "eot", key)) for part in parts
        ]
        return torch.cat(found).flatten(1)

    reference = gradients(REFERENCE, "reference")

    def measured(count: int, *, bfloat16: bool = False) -> Samples:
        cosine = torch.cosine_similarity(gradients(count, count, bfloat16=bfloat16), reference)
        return Samples(model_of(count, bfloat16=bfloat16).samples, float(cosine.mean()), bfloat16)

    count, found = 1, measured(1)
    while found.cosine < ENOUGH and count < most:
        count = min(2 * count, most)
        found = measured(count)
    if may_round:
        rounded = measured(count, bfloat16=True)
        if rounded.cosine >= min(ENOUGH, found.cosine - ROUNDING):
            return rounded
    return found
