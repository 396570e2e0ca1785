"""Whether a score means what it says, and what refusing low scores gains.

The score is the probability of the answer, as the runtime has it: under one draw, after the bundle's
temperature. The expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017) is the mean
distance between score and accuracy over bins of equally wide scores.

A threshold on the score, ``--min-score``, accepts some answers and is unsure of the others. Coverage is the
share of accepted answers, risk the share of errors among these. Thresholds are chosen by their coverage of
clean images, so risks under different attacks stand beside each other at one setting of the product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.robustness.defences.judges import Judge, Key
from trainer.robustness.evaluation.report import Accepted, AtThreshold, Confidence

BINS = 15
EXTREME = 20.0
COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))  # of clean images


@dataclass(frozen=True)
class Scores:
    """Answers to some images: scores in [0, 1] and whether they were right, (D B,) both."""

    score: Tensor
    right: Tensor

    def at(self, threshold: float) -> Accepted:
        """Coverage and risk where scores from ``threshold`` on are accepted."""
        accepted = self.score >= threshold
        coverage = float(accepted.double().mean())
        risk = float((~self.right[accepted]).double().mean()) if accepted.any() else 0.0
        return Accepted(coverage, risk)


def measure(
    judge: Judge, attacked: Mapping[str, Tensor], labels: Tensor, *, draws: int, key: Key
) -> Confidence:
    """Calibration errors, and coverage and risk by threshold, of each set of images.

    Args:
        attacked: (N, 3, H, W) each, by name; one of them is ``clean``.
        labels: (N,).
        draws: fresh ones an image.
    """
    scores = {name: ask(judge, images, labels, draws=draws, key=key) for name, images in attacked.items()}
    clean = scores["clean"].score
    return Confidence(
        images=len(labels),
        error={name: calibration_error(found) for name, found in scores.items()},
        thresholds=tuple(
            AtThreshold(threshold, {name: found.at(threshold) for name, found in scores.items()})
            for threshold in (float(clean.quantile(1 - coverage)) for coverage in COVERAGES)
        ),
    )


def ask(judge: Judge, images: Tensor, labels: Tensor, *, draws: int, key: Key) -> Scores:
    """Every image under each of ``draws`` draws."""
    score, answer = judge.probabilities(images, draws=draws, key=key).double().max(-1)  # (D, B)
    return Scores(score.flatten(), (answer == labels).flatten())


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """The temperature that makes these log-probabilities likeliest (Guo et al., ICML 2017).

    The mean negative log-likelihood is convex in the inverse temperature, so bisection of its slope finds it.

    Args:
        log_probabilities: (D, B, C), or logits; of each image under each of D draws.
        labels: (B,).

    Returns:
        What to divide logits by, between 1 / ``EXTREME`` and ``EXTREME``.
    """
    logits = log_probabilities.double()
    true = logits.gather(-1, labels.expand(len(logits), -1)[..., None]).squeeze(-1)  # (D, B)
    low, high = 1 / EXTREME, EXTREME
    for _ in range(60):
        inverse = math.sqrt(low * high)
        expected = ((inverse * logits).softmax(-1) * logits).sum(-1)
        is_too_sure = float((expected - true).mean()) > 0
        low, high = (low, inverse) if is_too_sure else (inverse, high)
    return 1 / math.sqrt(low * high)


def calibration_error(scores: Scores) -> float:
    """The expected calibration error in [0, 1], over ``BINS`` bins."""
    places = (scores.score * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64)
    gaps.index_add_(0, places, scores.score - scores.right.double())
    return float(gaps.abs().sum() / len(places))
