"""The networks that published figures are of, in their forms for 32 x 32 images: ResNet-18 and Wide ResNets.

Each is given as a trunk and a maker of members, which ``DiverseClassifier`` puts together; with one member
it is the published network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.classifier import Parts, stage


def resnet18(n_classes: int) -> Parts:
    """ResNet-18 (He et al., CVPR 2016), 3x3 first convolution, no pooling: 11.2 M parameters, 555 MMAC."""
    trunk = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        stage(64, 64, 2, stride=1),
        stage(64, 128, 2, stride=2),
        stage(128, 256, 2, stride=2),
    )
    return Parts(trunk, lambda: _member(stage(256, 512, 2, stride=2), 512, n_classes))


def wide_resnet(n_classes: int, *, depth: int = 28, factor: int = 10) -> Parts:
    """WRN-depth-factor (Zagoruyko and Komodakis, BMVC 2016); WRN-28-10 has 36.5 M parameters, 5.24 GMAC."""
    blocks = (depth - 4) // 6
    widths = [16, 16 * factor, 32 * factor, 64 * factor]
    trunk = nn.Sequential(
        nn.Conv2d(3, widths[0], 3, padding=1, bias=False),
        _wide_stage(widths[0], widths[1], blocks, stride=1),
        _wide_stage(widths[1], widths[2], blocks, stride=2),
    )
    return Parts(trunk, _wide_member(widths[2], widths[3], blocks, n_classes))


class PreactivationBlock(nn.Module):
    """Normalization and rectifier come before each convolution; a convolved shortcut follows the first."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        is_same = stride == 1 and width_in == width_out
        self.shortcut = None if is_same else nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        inner: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return inner + (x if self.shortcut is None else self.shortcut(active))


def _wide_stage(width_in: int, width_out: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = PreactivationBlock(width_in, width_out, stride)
    return nn.Sequential(first, *(PreactivationBlock(width_out, width_out, 1) for _ in range(blocks - 1)))


def _wide_member(width_in: int, width_out: int, blocks: int, n_classes: int) -> Callable[[], nn.Module]:
    def member() -> nn.Module:
        last = _wide_stage(width_in, width_out, blocks, stride=2)
        return _member(nn.Sequential(last, nn.BatchNorm2d(width_out), nn.ReLU()), width_out, n_classes)

    return member


def _member(last_stage: nn.Module, width: int, n_classes: int) -> nn.Module:
    return nn.Sequential(last_stage, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes))
