"""APGD-T: Auto-PGD on the targeted DLR loss, towards a few wrong classes in turn (Croce & Hein, ICML 2020).

Auto-PGD needs one deterministic function to compare its iterates by, so a random defence is frozen: one
sample for each target, drawn afresh from target to target. The point kept is the one with the widest margin
under a further sample.

``pyautoattack`` has the same algorithm. It returns the clean image wherever its frozen sample holds, so a
point that some draws get wrong and others don't is lost; this one returns the best point it met.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdk.errors import UsageError
from trainer.robustness.attacks.ball import Ball, check_images
from trainer.robustness.attacks.gradient import gradient_and_logits
from trainer.robustness.attacks.losses import Loss, margin, targeted_dlr
from trainer.robustness.attacks.settled import MARGIN
from trainer.robustness.defences.surrogates import Frozen, Model

MOMENTUM = 0.75  # the share of the new step, against the one before
RISING_SHARE = 0.75  # of a period's steps: fewer that raise the loss halve the step size
FIRST_PERIOD, PERIOD_LOSS, MIN_PERIOD = 0.22, 0.03, 0.06  # of all steps


def apgd_targeted(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    steps: int,
    targets: int,
    generator: torch.Generator,
    start: Tensor | None = None,
) -> Tensor:
    """Auto-PGD towards the ``targets`` likeliest wrong classes, one after the other.

    An image whose margin is beyond doubt after one target (``settled.MARGIN``) is not attacked towards the
    next.

    Args:
        steps: of each target, >= 1.
        targets: classes, >= 1; at most all but the true one.
        start: (B, 3, H, W), a point in the ball to fall back on where nothing better is found; the images
            where it is None. Every ascent begins at a random point.

    Returns:
        (B, 3, H, W) inside the ball and [0, 1].
    """
    check_images(images, labels, model.n_classes)
    for name, value in (("steps", steps), ("targets", targets)):
        if value < 1:
            raise UsageError(f"{name}: expected at least 1, got {value}")
    best = (images if start is None else start).clone()
    judge = _frozen(model, generator)
    with torch.no_grad():
        widest = margin(judge(best), labels)
        likeliest = judge(images).scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)
    for place in range(min(targets, model.n_classes - 1)):
        rows = (widest < MARGIN).nonzero().squeeze(1)
        if not len(rows):
            break
        goal = _Towards(likeliest[rows, place])
        begin = ball.start(images[rows], generator)
        found = auto_pgd(
            _frozen(model, generator),
            images[rows],
            labels[rows],
            ball=ball,
            steps=steps,
            start=begin,
            loss=goal,
        )
        with torch.no_grad():
            reached = margin(judge(found), labels[rows])
        wider = reached > widest[rows]
        best[rows[wider]], widest[rows[wider]] = found[wider], reached[wider]
    return best


def auto_pgd(
    model: Frozen, images: Tensor, labels: Tensor, *, ball: Ball, steps: int, start: Tensor, loss: Loss
) -> Tensor:
    """Auto-PGD (algorithm 1): ascent with momentum, whose step size halves where it stops helping.

    Returns:
        (B, 3, H, W): the iterate of the highest loss.
    """
    generator = torch.Generator()  # a frozen model takes nothing from it
    here, before = start.clone(), start.clone()
    rising, logits = gradient_and_logits(model, here, labels, loss, generator=generator)
    reached = loss(logits, labels)
    best, best_rising, best_loss = here.clone(), rising.clone(), reached.clone()
    size = torch.full((len(images), 1, 1, 1), 2 * ball.eps)
    rises = torch.zeros(len(images))
    loss_at_check, halved_at_check = best_loss.clone(), torch.ones(len(images), dtype=torch.bool)
    period, next_check = _first_period(steps), _first_period(steps)
    for step in range(steps):
        share = 1.0 if step == 0 else MOMENTUM
        ahead = ball.project(here + size * ball.direction(rising), images)
        moved = ball.project(here + share * (ahead - here) + (1 - share) * (here - before), images)
        before, here = here, moved
        rising, logits = gradient_and_logits(model, here, labels, loss, generator=generator)
        last, reached = reached, loss(logits, labels)
        rises += reached > last
        better = reached > best_loss
        best_loss = torch.where(better, reached, best_loss)
        best[better], best_rising[better] = here[better], rising[better]
        if step + 1 == next_check:
            stuck = ~halved_at_check & (loss_at_check >= best_loss)
            halved = (rises <= RISING_SHARE * period) | stuck
            size[halved] /= 2
            here[halved], rising[halved] = best[halved], best_rising[halved]
            loss_at_check, halved_at_check, rises = best_loss.clone(), halved, torch.zeros(len(images))
            period = max(period - max(int(PERIOD_LOSS * steps), 1), max(int(MIN_PERIOD * steps), 1))
            next_check += period
    return best


class _Towards:
    """The targeted loss of one batch, as an untargeted one is called."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return targeted_dlr(logits, labels, self.targets)


def _first_period(steps: int) -> int:
    return max(int(FIRST_PERIOD * steps), 1)


def _frozen(model: Model, generator: torch.Generator) -> Frozen:
    return Frozen(model, int(torch.randint(2**62, (), generator=generator)))
