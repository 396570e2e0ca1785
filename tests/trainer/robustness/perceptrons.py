"""A random ensemble of perceptrons, adversarially trained on real digits within seconds.

Each member has one hidden layer, so that a reference can write its gradient down by hand.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.trainer.robustness.networks import read_digits
from trainer.data import Images
from trainer.objectives import attacks as adversary
from trainer.robustness.defences.surrogates import log_mean

SIDE, HIDDEN, MEMBERS, TRAINING = 8, 48, 3, 797


def split_digits() -> tuple[Images, Images]:
    """scikit-learn's digits as 8 x 8 grey RGB pictures: 797 to train on, 1,000 to attack."""
    images = read_digits()
    native = Images(images.pixels[:, :, ::2, ::2], images.targets, images.labels)
    return native[:TRAINING], native[TRAINING:]


class Perceptrons(nn.Module):
    """M perceptrons: their mean is a ``surrogates.Model``, and they are an ``arc.Ensemble``."""

    n_classes = 10
    n_members = MEMBERS

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        size = 3 * SIDE * SIDE

        def random(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) / shape[-2] ** 0.5)

        self.hidden, self.hidden_bias = (
            random(MEMBERS, size, HIDDEN),
            nn.Parameter(torch.zeros(MEMBERS, 1, HIDDEN)),
        )
        self.out, self.out_bias = random(MEMBERS, HIDDEN, 10), nn.Parameter(torch.zeros(MEMBERS, 1, 10))

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The log of the mean probabilities, (B, 10)."""
        return log_mean(self.members(images, generator).log_softmax(-1))

    def members(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logits, (M, B, 10), of images (B, 3, 8, 8) for all, or (M, B, 3, 8, 8) for each."""
        rows = images.flatten(-3) - 0.5
        codes = (rows @ self.hidden + self.hidden_bias).relu()
        return codes @ self.out + self.out_bias

    def member(self, index: int, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Those of one, (B, 10)."""
        codes = ((images.flatten(1) - 0.5) @ self.hidden[index] + self.hidden_bias[index]).relu()
        return codes @ self.out[index] + self.out_bias[index]


def train(images: Images, *, eps: float, steps: int = 600) -> Perceptrons:
    """Perceptrons, each trained on images that were attacked through itself, within ``eps`` of linf."""
    generator = torch.Generator().manual_seed(0)
    bank = Perceptrons()
    optimizer = torch.optim.Adam(bank.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (MEMBERS, 100), generator=generator)
        pixels, labels = images.pixels[rows].float() / 255, images.targets[rows].flatten()

        def loss_of(seen: Tensor, labels: Tensor = labels) -> Tensor:
            return F.cross_entropy(bank.members(seen).flatten(0, 1), labels)

        noise = torch.rand(pixels.shape, generator=generator)
        pixels = adversary.pgd(loss_of, pixels, eps=eps, steps=3, step_size=0.5 * eps, noise=noise)
        optimizer.zero_grad()
        loss_of(pixels).backward()
        optimizer.step()
        schedule.step()
    return bank.requires_grad_(False).eval()
