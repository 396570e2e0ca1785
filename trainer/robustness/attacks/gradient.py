"""Gradient attacks on a model: FGSM and PGD.

A model is any function of (images, generator), see ``surrogates.Model``. Where it is random, each call is a
fresh sample, and the average that it takes is the EOT. All arguments but model, images and labels are
keywords. All randomness comes from the generator: the same generator gives the same adversarial images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sdk.errors import UsageError
from trainer.robustness.attacks.ball import Ball, check_images
from trainer.robustness.attacks.losses import Loss, cross_entropy
from trainer.robustness.attacks.settled import Members, Watched
from trainer.robustness.defences.surrogates import Model

FIRST_STEP, LAST_STEP = 1 / 4, 1 / 25  # of eps: the range of the falling step size


def fgsm(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    generator: torch.Generator,
    loss: Loss = cross_entropy,
) -> Tensor:
    """One step of full length from the images themselves (Goodfellow et al., ICLR 2015).

    Returns:
        (B, 3, H, W) inside the ball and [0, 1].
    """
    check_images(images, labels, model.n_classes)
    rising = ball.direction(gradient(model, images, labels, loss, generator=generator))
    return ball.project(images + ball.eps * rising, images)


def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    steps: int,
    generator: torch.Generator,
    step_size: float | None = None,
    falling: bool = False,
    loss: Loss = cross_entropy,
    restarts: int = 1,
    random_start: bool = True,
    keep_best: bool = False,
    patience: int | None = None,
) -> Tensor:
    """Projected gradient ascent (Madry et al., ICLR 2018).

    Args:
        steps: gradient steps of each restart, >= 1.
        step_size: length of a step in the ball's norm; 2.5 eps / steps where it is None.
        falling: let the length fall linearly from eps / 4 to eps / 25 instead.
        restarts: >= 1; the one with the highest loss at its end is kept, image by image.
        random_start: begin at a random point of the ball, else at the image.
        keep_best: return the iterate of the highest loss, by the samples that the steps took; else the last
            one.
        patience: stop on an image that every sub-model of so many samples in a row gets wrong; see
            ``settled``, whose ``Members`` the model has to be. None goes on to the last step.

    Returns:
        (B, 3, H, W) inside the ball and [0, 1].
    """
    check_images(images, labels, model.n_classes)
    for name, value in (("steps", steps), ("restarts", restarts), ("patience", patience)):
        if value is not None and value < 1:
            raise UsageError(f"{name}: expected at least 1, got {value}")
    ascent = _Ascent(
        steps=steps,
        step_size=step_size,
        falling=falling,
        random_start=random_start,
        keep_best=keep_best,
        patience=patience,
    )
    best, best_loss = images, torch.full((len(images),), -torch.inf)
    for _ in range(restarts):
        climb = _Climb(model, images, labels, ball=ball, loss=loss)
        adversarial = climb.run(ascent, generator)
        if restarts == 1:
            return adversarial
        with torch.no_grad():
            reached = loss(model(adversarial, generator), labels)
        better = reached > best_loss
        best_loss = torch.where(better, reached, best_loss)
        best = torch.where(better[:, None, None, None], adversarial, best)
    return best


@dataclass(frozen=True)
class _Ascent:
    """How PGD climbs; the fields are arguments of ``pgd``."""

    steps: int
    step_size: float | None
    falling: bool
    random_start: bool
    keep_best: bool
    patience: int | None

    def length(self, step: int, ball: Ball) -> float:
        """Of step number ``step``, from 0 on, in the ball's norm."""
        if self.falling:
            return ball.eps * (FIRST_STEP + step / max(1, self.steps - 1) * (LAST_STEP - FIRST_STEP))
        return 2.5 * ball.eps / self.steps if self.step_size is None else self.step_size


class _Climb:
    """One ascent on one batch."""

    def __init__(self, model: Model, images: Tensor, labels: Tensor, *, ball: Ball, loss: Loss) -> None:
        self.model, self.images, self.labels, self.ball, self.loss = model, images, labels, ball, loss

    def run(self, ascent: _Ascent, generator: torch.Generator) -> Tensor:
        """``ascent.steps`` steps, fewer for an image that is settled."""
        start = self.ball.start(self.images, generator) if ascent.random_start else self.images
        adversarial, best = start.clone(), start.clone()
        highest = torch.full((len(start),), -torch.inf)  # of the losses, at ``best``
        lost_in_a_row = torch.zeros(len(start), dtype=torch.int64)
        rows = torch.arange(len(start))
        for step in range(ascent.steps):
            here, labels = adversarial[rows], self.labels[rows]
            watched = None if ascent.patience is None else Watched(cast(Members, self.model), labels)
            rising, logits = gradient_and_logits(
                self.model if watched is None else watched, here, labels, self.loss, generator=generator
            )
            _keep(best, highest, rows, here, self.loss(logits, labels))
            moved = here + ascent.length(step, self.ball) * self.ball.direction(rising)
            adversarial[rows] = self.ball.project(moved, self.images[rows])
            if watched is not None and ascent.patience is not None:
                lost_in_a_row[rows] = torch.where(watched.lost, lost_in_a_row[rows] + 1, 0)
                rows = (lost_in_a_row < ascent.patience).nonzero().squeeze(1)
                if not len(rows):
                    break
        if not ascent.keep_best:
            return adversarial
        if len(rows):  # the last iterate has not been looked at
            with torch.no_grad():
                logits = self.model(adversarial[rows], generator)
            _keep(best, highest, rows, adversarial[rows], self.loss(logits, self.labels[rows]))
        return best


def _keep(best: Tensor, highest: Tensor, rows: Tensor, here: Tensor, reached: Tensor) -> None:
    """Put the points ``here`` of ``rows`` into ``best`` where their loss is higher than any before."""
    higher = reached > highest[rows]
    best[rows[higher]], highest[rows[higher]] = here[higher], reached[higher]


def gradient(
    model: Model, images: Tensor, labels: Tensor, loss: Loss, *, generator: torch.Generator
) -> Tensor:
    """Of the summed loss in the images, (B, 3, H, W); zero where the loss does not depend on them."""
    return gradient_and_logits(model, images, labels, loss, generator=generator)[0]


def gradient_and_logits(
    model: Model, images: Tensor, labels: Tensor, loss: Loss, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The gradient, and the logits (B, C) that it belongs to."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf, generator)
        total = loss(logits, labels).sum()
        if not total.requires_grad:
            return torch.zeros_like(images), logits.detach()
        (found,) = torch.autograd.grad(total, leaf, allow_unused=True)
    return torch.zeros_like(images) if found is None else found, logits.detach()
