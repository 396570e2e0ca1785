"""Low-rank adapters: fine-tune a network by a small change of each linear layer (LoRA, Hu et al., ICLR 2022).

``add`` puts them on, ``only`` trains nothing else, ``merge`` folds them into plain layers again, which
compute the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRankLinear(nn.Linear):
    """``linear`` with its weight W replaced by W + up down; ``up`` starts at zero, so nothing changes yet.

    The layer's own weight and bias keep their names, so weights from before the adapters load as they are.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear.in_features, linear.out_features)
        self.weight, self.bias = linear.weight, linear.bias
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.down), self.up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer that computes the same."""
        linear = nn.Linear(self.in_features, self.out_features)
        linear.weight.copy_(self.weight + self.up @ self.down)
        linear.bias.copy_(self.bias)
        return linear


def add(module: nn.Module, rank: int) -> None:
    """Adapt every linear layer inside ``module``."""
    for parent, name, layer in _linear_layers(module):
        setattr(parent, name, LowRankLinear(layer, rank))


def only(module: nn.Module) -> None:
    """Of the parameters of ``module``, leave those of adapters alone to be trained."""
    adapted = names(module)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in adapted)


def present(module: nn.Module) -> bool:
    """Whether ``module`` has adapters."""
    return bool(names(module))


def names(module: nn.Module) -> set[str]:
    """Names of the adapters' parameters in the state of ``module``."""
    return {
        f"{name}.{part}"
        for name, layer in module.named_modules()
        if isinstance(layer, LowRankLinear)
        for part in ("down", "up")
    }


def merge(module: nn.Module) -> None:
    """Replace every adapted layer inside ``module`` by the plain one that computes the same."""
    for parent, name, layer in _linear_layers(module):
        if isinstance(layer, LowRankLinear):
            setattr(parent, name, layer.merged())


def _linear_layers(module: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    return [
        (parent, name, layer)
        for parent in module.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear)
    ]
