"""Attacks used in training: few steps, under a fixed draw, from noise that the caller gives.

The attacks that judge a defence are in ``trainer.robustness``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Images (B, 3, H, W) to a scalar loss that an attack maximizes.
LossOf = Callable[[Tensor], Tensor]


def gradient_of(loss_of: LossOf, images: Tensor) -> Tensor:
    """Gradient of the loss at ``images``; parameters' gradients are not touched."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss_of(leaf), leaf)
    return gradient


GradientOf = Callable[[LossOf, Tensor], Tensor]


def n_fgsm(
    loss_of: LossOf,
    images: Tensor,
    *,
    eps: float,
    noise: Tensor,
    last_gradient: GradientOf = gradient_of,
) -> Tensor:
    """N-FGSM (de Jorge et al., NeurIPS 2022): x + u + eps sign(gradient at x + u), u ~ U(-2 eps, 2 eps).

    Not clipped to the ball.

    Args:
        loss_of: images (B, 3, H, W) to a scalar that the attack maximizes.
        images: (B, 3, H, W) in [0, 1].
        eps: step, in the images' units.
        noise: (B, 3, H, W) uniform in [0, 1).
        last_gradient: computes the gradient of the last step, here the only one.
    """
    start = images + (2 * noise - 1) * 2 * eps
    return start + eps * last_gradient(loss_of, start).sign()


def pgd(
    loss_of: LossOf,
    images: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    noise: Tensor,
    last_gradient: GradientOf = gradient_of,
) -> Tensor:
    """Projected gradient ascent (Madry et al., ICLR 2018), from a random start, in the ball and in [0, 1].

    Args: as ``n_fgsm``, and ``steps`` of size ``step_size``, in the images' units.
    """
    attacked = (images + (2 * noise - 1) * eps).clamp(0, 1)
    for k in range(steps):
        gradient = (last_gradient if k == steps - 1 else gradient_of)(loss_of, attacked)
        attacked = attacked + step_size * gradient.sign()
        attacked = images + (attacked - images).clamp(-eps, eps)
        attacked = attacked.clamp(0, 1)
    return attacked
