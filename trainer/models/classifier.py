"""The diverse classifier: J members on a shared trunk, each with its own last stage and head.

The edge network halves the image in its first convolution and works on 16x16, 8x8 and 4x4 maps of a 32x32
image. Normalization of the pixels is inside, so images enter as [0, 1] RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Parts:
    """A kind of classifier: its trunk, and what makes one member that takes the trunk's output."""

    trunk: nn.Module
    member: Callable[[], nn.Module]


class DiverseClassifier(nn.Module):
    """J classifiers that share all but their last stage.

    Args:
        parts: the kind of network.
        n_classes: number of logits.
        n_classifiers: J.
        mean, std: of the training images' channels, in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        parts: Parts,
        *,
        n_classes: int,
        n_classifiers: int = 2,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.trunk = parts.trunk
        self.members = nn.ModuleList(parts.member() for _ in range(n_classifiers))

    @property
    def n_classifiers(self) -> int:
        return len(self.members)

    def forward(self, images: Tensor, member: Tensor) -> Tensor:
        """Logits (B, n_classes) of ``images`` (B, 3, H, W), each by the member (B,) int64 drawn for it."""
        features = self.features(images)
        logits = features.new_empty(len(images), self.n_classes)
        parts = [(member == j).nonzero().squeeze(1) for j in range(self.n_classifiers)]
        for rows, net in zip(parts, self.members, strict=True):
            if len(rows):
                logits = logits.index_copy(0, rows, net(features[rows]).to(logits.dtype))
        return logits

    def all_logits(self, images: Tensor) -> Tensor:
        """Logits of every member, (J, B, n_classes)."""
        features = self.features(images)
        return torch.stack([net(features) for net in self.members])

    def features(self, images: Tensor) -> Tensor:
        """The trunk's output, which every member takes; (B, C, H / 4, W / 4) for the edge network."""
        features: Tensor = self.trunk((images - self.mean) / self.std)
        return features


class SingleClassifier(nn.Module):
    """Member ``index`` alone, as it is exported: image (B, 3, H, W) -> logits (B, n_classes)."""

    def __init__(self, classifier: DiverseClassifier, index: int) -> None:
        super().__init__()
        self.mean, self.std = classifier.mean, classifier.std
        self.trunk, self.member = classifier.trunk, classifier.members[index]

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.member(self.trunk((image - self.mean) / self.std))
        return logits


def edge_network(n_classes: int, *, widths: Sequence[int] = (64, 128, 128), blocks: int = 2) -> Parts:
    """The edge network: stages of ``widths``, each of ``blocks`` residual blocks, the last a member's own.

    Of the default sizes, with one member: 1.29 M parameters, 83 MMAC.
    """
    trunk = nn.Sequential(
        # 6x6 at stride 2 is a 3x3 convolution on 2x2 pixels folded into channels
        nn.Conv2d(3, widths[0], 6, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
        stage(widths[0], widths[0], blocks, stride=1),
        *(stage(i, o, blocks, stride=2) for i, o in pairwise(widths[:-1])),
    )

    def member() -> nn.Module:
        last = stage(widths[-2], widths[-1], blocks, stride=2)
        return nn.Sequential(last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], n_classes))

    return Parts(trunk, member)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; each convolution's normalization can be folded into it."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        nn.init.zeros_(self.norm2.weight)  # the block starts as its shortcut
        self.shortcut = (
            nn.Identity()
            if stride == 1 and width_in == width_out
            else nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False), nn.BatchNorm2d(width_out)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


def stage(width_in: int, width_out: int, blocks: int, *, stride: int) -> nn.Sequential:
    """``blocks`` residual blocks, the first of which changes width and resolution."""
    first = ResidualBlock(width_in, width_out, stride)
    return nn.Sequential(first, *(ResidualBlock(width_out, width_out, 1) for _ in range(blocks - 1)))
