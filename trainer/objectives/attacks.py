"""The attacks that training itself makes: few steps, under a fixed draw, from noise that the caller gives.

``trainer.robustness`` has those that a defence is judged by.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LossOf = Callable[[Tensor], Tensor]


def n_fgsm(loss_of: LossOf, images: Tensor, *, eps: float, noise: Tensor) -> Tensor:
    """N-FGSM (de Jorge et al., NeurIPS 2022): x + u + eps sign(gradient at x + u), u ~ U(-2 eps, 2 eps).

    Not clipped to the ball.

    Args:
        loss_of: images (B, 3, H, W) to a scalar that the attack raises.
        images: (B, 3, H, W) in [0, 1].
        eps: step, in the images' units.
        noise: (B, 3, H, W) uniform in [0, 1).
    """
    start = images + (2 * noise - 1) * 2 * eps
    return start + eps * gradient_of(loss_of, start).sign()


def pgd(
    loss_of: LossOf, images: Tensor, *, eps: float, steps: int, step_size: float, noise: Tensor
) -> Tensor:
    """Projected gradient ascent (Madry et al., ICLR 2018), from a random start, in the ball and in [0, 1]."""
    attacked = (images + (2 * noise - 1) * eps).clamp(0, 1)
    for _ in range(steps):
        attacked = attacked + step_size * gradient_of(loss_of, attacked).sign()
        attacked = images + (attacked - images).clamp(-eps, eps)
        attacked = attacked.clamp(0, 1)
    return attacked


def gradient_of(loss_of: LossOf, images: Tensor) -> Tensor:
    """The gradient of the loss at ``images``; parameters' gradients stay untouched."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss_of(leaf), leaf)
    return gradient
