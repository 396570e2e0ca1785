"""ARC as Dbouk & Shanbhag (ICML 2022, algorithm 2) print it, for one image and perceptrons, in numpy.

Nothing here is shared with ``trainer.robustness``: gradients are written down by hand, norms are spelt out,
and the loop is the paper's.  Its symbols are kept: eta is the local ball's radius, zeta the distance to the
nearest linearized boundary, g the direction that leads there, beta how far to go along it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.trainer.robustness.perceptrons import Perceptrons

Array = np.ndarray


@dataclass(frozen=True)
class Member:
    """logits = out relu(hidden x + hidden_bias) + out_bias, x flat and centred at 0.5."""

    hidden: Array  # (H, D)
    hidden_bias: Array  # (H,)
    out: Array  # (C, H)
    out_bias: Array  # (C,)

    def logits(self, x: Array) -> Array:
        """Of one image (D,), (C,)."""
        return self.out @ np.maximum(self.hidden @ (x - 0.5) + self.hidden_bias, 0) + self.out_bias

    def jacobian(self, x: Array) -> Array:
        """Of all logits in one image, (C, D)."""
        active = self.hidden @ (x - 0.5) + self.hidden_bias > 0
        return self.out[:, active] @ self.hidden[active]


def members_of(bank: Perceptrons) -> list[Member]:
    """The bank's perceptrons in double precision."""
    parts = (bank.hidden.mT, bank.hidden_bias[:, 0], bank.out.mT, bank.out_bias[:, 0])
    return [Member(*rows) for rows in zip(*(part.double().numpy() for part in parts), strict=True)]


def arc(members: list[Member], x: Array, y: int, *, norm: str, eps: float, eta: float, steps: int) -> Array:
    """The attacked image, (D,), of the image ``x`` (D,) in [0, 1] with label ``y``."""
    delta, best = np.zeros_like(x), share_right(members, x, y)
    for _ in range(steps):
        local, local_best = np.zeros_like(x), best
        for index, member in enumerate(members):
            g, dual, zeta = nearest_boundary(member, x + delta + local, norm)
            beta = eta
            if index > 0 and zeta < eta:
                beta = eta / (eta - zeta) * abs(zeta - dual @ local) + 0.05 * eps
            candidate = local + beta * g
            candidate = eta * candidate / (length(candidate, norm) + 1e-10)
            reached = share_right(members, x + inside(delta + candidate, x, norm, eps), y)
            if reached <= local_best:
                local, local_best = candidate, reached
        moved = inside(delta + local, x, norm, eps)
        reached = share_right(members, x + moved, y)
        if reached <= best:
            delta, best = moved, reached
    return x + delta


def share_right(members: list[Member], x: Array, y: int) -> float:
    """The expected accuracy on one image: every member is as likely as the next."""
    return sum(int(member.logits(x).argmax()) == y for member in members) / len(members)


def nearest_boundary(member: Member, x: Array, norm: str) -> tuple[Array, Array, float]:
    """g of unit norm, the unit normal that zeta is measured along, and zeta, over all other classes."""
    logits, jacobian = member.logits(x), member.jacobian(x)
    predicted = int(logits.argmax())
    nearest: tuple[Array, Array, float] | None = None
    for other in range(len(logits)):
        if other == predicted:
            continue
        w = jacobian[predicted] - jacobian[other]
        size = (np.abs(w).sum() if norm == "linf" else np.sqrt((w * w).sum())) + 1e-10
        zeta = (logits[predicted] - logits[other]) / size
        if nearest is None or zeta < nearest[2]:
            nearest = (-np.sign(w) if norm == "linf" else -w / size, -w / size, zeta)
    assert nearest is not None
    return nearest


def length(delta: Array, norm: str) -> float:
    return float(np.abs(delta).max() if norm == "linf" else np.sqrt((delta * delta).sum()))


def inside(delta: Array, x: Array, norm: str, eps: float) -> Array:
    """``delta`` brought back into the ball of radius eps, and x + delta into [0, 1]."""
    if norm == "linf":
        delta = np.clip(delta, -eps, eps)
    elif length(delta, norm) > eps:
        delta = delta * eps / length(delta, norm)
    return np.clip(x + delta, 0, 1) - x
