"""Shares with their intervals, and the three ways in which a random defence's answers are counted."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import torch
from torch import Tensor

Z95 = 1.959964  # of the standard normal, two-sided 95 %


class Figure(msgspec.Struct, frozen=True):
    """A share in [0, 1] of ``images``, with its Wilson 95 % interval."""

    share: float
    low: float
    high: float
    images: int

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


class Counts(msgspec.Struct, frozen=True):
    """A random defence's accuracy on one set of images under fresh draws.

    Attributes:
        expected: the chance that one draw is right, averaged over the images.
        worst: images that every one of the draws gets right.
        majority: images whose most frequent answer over the draws is right.
        draws: per image.
    """

    expected: Figure
    worst: Figure
    majority: Figure
    draws: int


class Difference(msgspec.Struct, frozen=True):
    """How much more of the same images one defence keeps than another, in points, with its 95 % interval."""

    points: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.points:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def wilson(share: float, images: int) -> Figure:
    """Wilson's score interval (1927) of ``share``; for a mean of chances it is, if anything, too wide."""
    if images < 1 or not 0 <= share <= 1:
        raise ValueError(f"expected a share in [0, 1] of at least one image, got {share} of {images}")
    scale = 1 + Z95**2 / images
    centre = (share + Z95**2 / (2 * images)) / scale
    half = Z95 / scale * math.sqrt(share * (1 - share) / images + Z95**2 / (4 * images**2))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Figure(share, min(low, share), max(high, share), images)  # a rounding error, at 0 and 1


def paired(ours: Tensor, theirs: Tensor) -> Difference:
    """The mean over images of ``ours`` less ``theirs``, (B,) in [0, 1] both, by the normal approximation."""
    differences = 100 * (ours - theirs)
    half = Z95 * float(differences.std()) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    points = float(differences.mean())
    return Difference(points, max(-100.0, points - half), min(100.0, points + half))


def count(answers: Tensor, labels: Tensor) -> Counts:
    """Count the class indices ``answers`` (D, B) of D draws against ``labels`` (B,)."""
    right = answers == labels  # (D, B)
    favourite = answers.mode(dim=0).values
    shares = (right.double().mean(), right.all(0).double().mean(), (favourite == labels).double().mean())
    expected, worst, majority = (wilson(float(share), len(labels)) for share in shares)
    return Counts(expected, worst, majority, len(answers))


def chance(answers: Tensor, labels: Tensor) -> Tensor:
    """Per image, the share of draws that are right: (B,) in [0, 1] from class indices ``answers`` (D, B)."""
    return (answers == labels).double().mean(0)


def roc_area(negatives: Tensor, positives: Tensor) -> float:
    """Chance that a positive's score exceeds a negative's, ties counting half: the area under the ROC."""
    above = (positives[:, None] > negatives).double() + 0.5 * (positives[:, None] == negatives).double()
    return float(above.mean())


def roc_at(rates: Tensor, negatives: Tensor, positives: Tensor) -> Tensor:
    """The share of positives above the threshold that each of ``rates`` of the negatives exceeds, (R,).

    It is the highest such share, and between two thresholds' rates on the line between them.
    """
    thresholds = torch.unique(torch.cat([negatives, positives])).flip(0)
    false, true = ((scores[:, None] >= thresholds).double().mean(0) for scores in (negatives, positives))
    origin = torch.zeros(1, dtype=torch.float64)
    known, reached = (torch.cat([origin, shares]).numpy() for shares in (false, true))
    return torch.from_numpy(np.interp(rates.double().numpy(), known, reached))
