"""Gradient attacks on a model: FGSM and PGD.

A model is any function of (images, generator), see ``surrogates.Model``; where it is random, each call is a
fresh sample, and its own averaging is the EOT.  All arguments but model, images and labels are keywords; all
randomness comes from the generator, so the same generator gives the same adversarial images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdk.errors import UsageError
from trainer.robustness.attacks.ball import Ball, check_images
from trainer.robustness.attacks.losses import Loss, cross_entropy
from trainer.robustness.attacks.settled import Watched
from trainer.robustness.defences.surrogates import Model


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
    rising = ball.direction(gradient(model, images, labels, loss, generator))
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
    loss: Loss = cross_entropy,
    restarts: int = 1,
    random_start: bool = True,
    patience: int | None = None,
) -> Tensor:
    """Projected gradient ascent (Madry et al., ICLR 2018): the last iterate, and of several restarts the
    best.

    Args:
        steps: gradient steps of each restart, >= 1.
        step_size: length of a step in the ball's norm; 2.5 eps / steps where it is None.
        restarts: >= 1; the one with the highest loss at its end is kept, image by image.
        random_start: begin at a random point of the ball, else at the image.
        patience: leave an image as it is once it is settled: lost in so many samples in a row; see
            ``settled``, whose ``Members`` the model has to be.  None goes on to the last step.

    Returns:
        (B, 3, H, W) inside the ball and [0, 1].
    """
    check_images(images, labels, model.n_classes)
    for name, value in (("steps", steps), ("restarts", restarts), ("patience", patience)):
        if value is not None and value < 1:
            raise UsageError(f"{name}: expected at least 1, got {value}")
    length = 2.5 * ball.eps / steps if step_size is None else step_size
    best, best_loss = images, torch.full((len(images),), -torch.inf)
    for _ in range(restarts):
        start = ball.start(images, generator) if random_start else images
        adversarial = _ascend(model, start, images, labels, ball, length, steps, generator, loss, patience)
        if restarts == 1:
            return adversarial
        with torch.no_grad():
            reached = loss(model(adversarial, generator), labels)
        better = reached > best_loss
        best_loss = torch.where(better, reached, best_loss)
        best = torch.where(better[:, None, None, None], adversarial, best)
    return best


def _ascend(
    model: Model,
    start: Tensor,
    images: Tensor,
    labels: Tensor,
    ball: Ball,
    length: float,
    steps: int,
    generator: torch.Generator,
    loss: Loss,
    patience: int | None,
) -> Tensor:
    """``steps`` steps from ``start``, fewer for an image that settles."""
    adversarial = start.clone()
    lost_in_a_row = torch.zeros(len(images), dtype=torch.int64)
    rows = torch.arange(len(images))
    for _ in range(steps):
        here, watched = adversarial[rows], model
        if patience is not None:
            watched = Watched(model, labels[rows])
        rising = ball.direction(gradient(watched, here, labels[rows], loss, generator))
        adversarial[rows] = ball.project(here + length * rising, images[rows])
        if patience is not None:
            lost_in_a_row[rows] = torch.where(watched.lost, lost_in_a_row[rows] + 1, 0)
            rows = (lost_in_a_row < patience).nonzero().squeeze(1)
            if not len(rows):
                break
    return adversarial


def gradient(model: Model, images: Tensor, labels: Tensor, loss: Loss, generator: torch.Generator) -> Tensor:
    """Of the summed loss in the images, (B, 3, H, W); zero where the loss does not depend on them."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        total = loss(model(leaf, generator), labels).sum()
        if not total.requires_grad:
            return torch.zeros_like(images)
        (found,) = torch.autograd.grad(total, leaf, allow_unused=True)
    return torch.zeros_like(images) if found is None else found
