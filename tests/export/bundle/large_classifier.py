"""A classifier of one's own that is large: 40 MB of FP32 weights in three linear layers."""

from __future__ import annotations

from torch import nn


def build(n_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(8),
        nn.Flatten(),
        nn.Linear(192, 2500),
        nn.ReLU(),
        nn.Linear(2500, 4000),
        nn.ReLU(),
        nn.Linear(4000, n_classes),
    )
