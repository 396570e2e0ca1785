"""Adversarial weight perturbation (Wu et al., NeurIPS 2020, arXiv 2004.05884) at the cost of one gradient.

Weights are moved uphill before the forward pass of the update and moved back after its backward pass, so that
training prefers a flat loss. The direction is the weights' gradient at the last step of the attack on the
images: the same backward pass gives both, where the original method takes another forward and backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.objectives.attacks import LossOf


class WeightPerturbation:
    """Perturbs the convolution and linear weights of a module, each by a share of its own norm.

    Args:
        module: what is perturbed; norms' weights and biases stay as they are.
        size: norm of the perturbation over the norm of the weight; gamma in the paper.
    """

    def __init__(self, module: nn.Module, size: float) -> None:
        self.size = size
        self._weights = [weight for weight in module.parameters() if weight.dim() > 1]
        self._gradients: list[Tensor | None] = []
        self._before: list[tuple[Tensor, Tensor]] = []

    def gradient_of(self, loss_of: LossOf, images: Tensor) -> Tensor:
        """Gradient of the loss at ``images``, as ``attacks.gradient_of``; keeps that of the weights."""
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss_of(leaf), [leaf, *self._weights], allow_unused=True)
        self._gradients = list(gradients[1:])
        return gradients[0]

    @torch.no_grad()
    def apply(self) -> None:
        """Move the weights along the kept gradients; a weight without one, of a member not drawn, stays."""
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            if gradient is not None:
                self._before.append((weight, weight.clone()))
                weight.add_(gradient * (self.size * weight.norm() / (gradient.norm() + 1e-12)))
        self._gradients = []
        torch.clear_autocast_cache()  # it holds the weights in half precision as they were

    @torch.no_grad()
    def undo(self) -> None:
        """Restore the weights bit for bit; a no-op if they are not perturbed."""
        for weight, before in self._before:
            weight.copy_(before)
        self._before.clear()
