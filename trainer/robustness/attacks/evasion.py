"""Attacks that want more than an error: one that suspicion misses, or one that is accepted as sure."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.gradient import pgd
from trainer.robustness.attacks.losses import best_wrong, margin
from trainer.robustness.defences.surrogates import Model


def be_accepted(
    defended: Model,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """PGD on the score of the best wrong class: a wrong answer that a threshold on the score lets through.

    ``defended`` gives log-probabilities, whose mean is the expectation over draws (``surrogates.log_mean``).
    """
    return pgd(
        defended,
        images,
        labels,
        ball=ball,
        steps=steps,
        generator=generator,
        falling=True,
        keep_best=True,
        loss=best_wrong,
    )


def evade_both(
    defended: Model,
    raw: Model,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """PGD on the margin of one wrong class, for the defence and for the bare classifiers at once, so that
    they agree.

    The class is the defence's second guess of the clean image.
    """
    with torch.no_grad():
        guesses = defended(images, generator)
    target = guesses.scatter(1, labels[:, None], -torch.inf).argmax(1)

    def towards(logits: Tensor, labels: Tensor) -> Tensor:
        return -margin(logits, target)

    return pgd(
        _Both(defended, raw),
        images,
        labels,
        ball=ball,
        steps=steps,
        generator=generator,
        falling=True,
        keep_best=True,
        loss=towards,
    )


class _Both:
    """The mean of two models' log-probabilities: high for a class only where both give it a chance."""

    def __init__(self, first: Model, second: Model) -> None:
        self.models = (first, second)
        self.n_classes = first.n_classes

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return torch.stack([model(images, generator) for model in self.models]).mean(0)
