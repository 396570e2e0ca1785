"""ONNX classifiers as users bring them, made by torch's exporter."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from export.torch_to_onnx import engine_bytes
from trainer.data import Images


class Normalized(nn.Module):
    """A small network of the user's, which takes pixels as they are in its own convention."""

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1, stride=2), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 24, 3, padding=1, stride=2), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Flatten(), nn.Linear(24 * 16, n_classes),
        )  # fmt: skip

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(image)
        return logits


def trained(images: Images, *, epochs: int = 8) -> Normalized:
    """Right on most of ``images``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Normalized(len(images.labels))
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(epochs):
            for batch, labels in images.batches(64):
                optimizer.zero_grad()
                F.cross_entropy(net(batch), labels).backward()
                optimizer.step()
    return net.eval()


def write(net: nn.Module, path: Path, *, side: int = 16) -> Path:
    """``net`` as an ONNX file for one image."""
    path.write_bytes(
        engine_bytes(net, {"image": torch.zeros(1, 3, side, side)}, output="logits", name="mine")
    )
    return path
