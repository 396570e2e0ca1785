"""ARC: the attack on random ensembles (Dbouk & Shanbhag, ICML 2022, algorithm 2).

Gradient ascent on the mean can stop where several members push against each other. ARC visits the members
one by one, moves towards each one's nearest decision boundary, and keeps a move only where the expected
accuracy doesn't rise.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from sdk.errors import UsageError
from trainer.robustness.attacks.ball import Ball, check_images

MARGIN_SHARE = 0.05  # of eps: how far beyond a boundary a move aims (rho in the paper)
STEP_SHARE = {"linf": 1.0, "l2": 0.25}  # of eps: the radius of a round's moves (eta in the paper)


class Ensemble(Protocol):
    """M equally likely members; the generator says which sample of them a call sees."""

    n_classes: int

    @property
    def n_members(self) -> int: ...

    def members(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits or log-probabilities of every member, (M, B, C)."""
        ...

    def member(self, index: int, images: Tensor, generator: torch.Generator) -> Tensor:
        """Those of one of the same members, (B, C)."""
        ...


def arc(
    ensemble: Ensemble,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    steps: int,
    generator: torch.Generator,
    step_size: float | None = None,
    rivals: int = 4,
) -> Tensor:
    """Attack the members of one sample of the ensemble, which stays fixed so that moves can be compared.

    It starts at the images themselves: from random points of the ball it was measured to end weaker than PGD.

    Args:
        steps: rounds over all members, >= 1.
        step_size: how far a round may move, in the ball's norm; where it is None, what the authors took: eps
            for linf, eps / 4 for l2.
        rivals: of the other classes, how many are looked at for the nearest boundary: those of the largest
            logits.

    Returns:
        (B, 3, H, W) inside the ball and [0, 1].
    """
    check_images(images, labels, ensemble.n_classes)
    if steps < 1:
        raise UsageError(f"steps: expected at least 1, got {steps}")
    seed = int(torch.randint(2**62, (), generator=generator))
    size = ball.eps * STEP_SHARE[ball.norm] if step_size is None else step_size
    rivals = min(rivals, ensemble.n_classes - 1)
    adversarial, rows = images.clone(), torch.arange(len(images))
    for _ in range(steps):
        attack = _Arc(ensemble, images[rows], labels[rows], ball=ball, size=size, rivals=rivals, seed=seed)
        adversarial[rows] = attack.round(adversarial[rows])
        rows = rows[
            attack.accuracy(adversarial[rows]) > 0
        ]  # where no member is right, nothing is left to gain
        if not len(rows):
            break
    return adversarial


class _Arc:
    def __init__(
        self,
        ensemble: Ensemble,
        images: Tensor,
        labels: Tensor,
        *,
        ball: Ball,
        size: float,
        rivals: int,
        seed: int,
    ) -> None:
        self.ensemble, self.images, self.labels = ensemble, images, labels
        self.ball, self.size, self.rivals, self.seed = ball, size, rivals, seed

    def sample(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @torch.no_grad()
    def accuracy(self, adversarial: Tensor) -> Tensor:
        """The share of members that are right, (B,)."""
        logits = self.ensemble.members(adversarial, self.sample())  # (M, B, C)
        return (logits.argmax(-1) == self.labels).float().mean(0)

    def round(self, centre: Tensor) -> Tensor:
        """One visit to every member: the best point found at ``size`` from ``centre``, or ``centre``."""
        local = torch.zeros_like(centre)
        accuracy = self.accuracy(centre)
        for member in range(self.ensemble.n_members):
            direction, normal, distance = self.nearest_boundary(centre + local, member)
            move = self.move(local, direction, normal, distance)
            reached = self.accuracy(self.ball.project(centre + move, self.images))
            better = reached <= accuracy
            accuracy = torch.where(better, reached, accuracy)
            local = torch.where(better[:, None, None, None], move, local)
        return self.ball.project(centre + local, self.images)

    def move(self, local: Tensor, direction: Tensor, normal: Tensor, distance: Tensor) -> Tensor:
        """``local`` bent towards a boundary, so far that scaling back to ``size`` still crosses it."""
        along = (normal * local).flatten(1).sum(1)
        needed = self.size / (self.size - distance).clamp(min=1e-10) * (distance - along).abs()
        beyond = needed + MARGIN_SHARE * self.ball.eps
        reachable = (distance < self.size) & (local.flatten(1).abs().amax(1) > 0)
        beta = torch.where(reachable, beyond, torch.full_like(distance, self.size))
        bent = local + beta.view(-1, 1, 1, 1) * direction
        return self.size * bent / self._norm(bent).clamp(min=1e-10)

    def nearest_boundary(self, adversarial: Tensor, member: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``member``, linearized: direction of unit norm, normal (B, 3, H, W) both, and distance (B,)."""
        leaf = adversarial.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.ensemble.member(member, leaf, self.sample())  # (B, C)
            top, classes = logits.topk(self.rivals + 1, dim=1)
            rows = torch.arange(len(leaf))
            gradients = [
                torch.autograd.grad(logits[rows, classes[:, k]].sum(), leaf, retain_graph=True)[0]
                for k in range(self.rivals + 1)
            ]
        falling = torch.stack([rival - gradients[0] for rival in gradients[1:]])  # (R, B, 3, H, W)
        gaps = (top[:, :1] - top[:, 1:]).detach().T  # (R, B)
        sizes = self._dual(falling)
        nearest = (gaps / sizes.clamp(min=1e-10)).argmin(0)
        chosen, dual = falling[nearest, rows], sizes[nearest, rows]
        normal = chosen / dual.clamp(min=1e-10).view(-1, 1, 1, 1)
        return self.ball.direction(chosen), normal, gaps[nearest, rows] / dual.clamp(min=1e-10)

    def _norm(self, delta: Tensor) -> Tensor:
        order = torch.inf if self.ball.norm == "linf" else 2
        result: Tensor = delta.flatten(1).norm(order, dim=1).view(-1, 1, 1, 1)
        return result

    def _dual(self, gradients: Tensor) -> Tensor:
        result: Tensor = gradients.flatten(2).norm(1 if self.ball.norm == "linf" else 2, dim=2)  # (R, B)
        return result
