"""Networks small enough to be trained on real digits within seconds, and the digits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainer import config as configs
from trainer.data import Images
from trainer.models import Defence
from trainer.objectives import attacks as adversary

SIDE = 16
LABELS = tuple("0123456789")
CLASSIFIER = configs.Classifier(count=2, widths=(16, 32, 32), blocks=1)
PLAIN = configs.PlainModel(n_classes=10, image_size=SIDE, classifier=CLASSIFIER)
REN = configs.RenModel(
    n_classes=10,
    image_size=SIDE,
    classifier=CLASSIFIER,
    purifier=configs.RenPurifier(count=3, atoms=48, atoms_per_encoder=40, atoms_kept=42, threshold=0.1),
)


def read_digits() -> Images:
    """scikit-learn's 1,797 handwritten digits as 16 x 16 grey RGB pictures."""
    datasets = pytest.importorskip("sklearn.datasets", reason="no digits; pip install 'edge-purify[dev]'")
    found = datasets.load_digits()
    grey = torch.from_numpy(found.images).mul(255 / 16).round().to(torch.uint8)  # (1797, 8, 8), was 0 to 16
    pixels = grey.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].repeat(1, 3, 1, 1)
    return Images(pixels, torch.from_numpy(found.target), LABELS)


def fit(defence: Defence, images: Images, *, eps: float = 0.0, epochs: int = 10) -> Defence:
    """Train ``defence`` whole, on images attacked in two steps within ``eps`` where that isn't 0."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(defence.parameters())
    steps = epochs * (len(images) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (100,), generator=generator)
        pixels, labels = images.pixels[rows].float() / 255, images.targets[rows]
        draw = defence.draw(len(rows), generator)

        def loss_of(seen: Tensor, labels: Tensor = labels, draw: object = draw) -> Tensor:
            return nn.functional.cross_entropy(defence(seen, draw), labels)

        if eps:
            noise = torch.rand(pixels.shape, generator=generator)
            pixels = adversary.pgd(loss_of, pixels, eps=eps, steps=2, step_size=0.7 * eps, noise=noise)
        optimizer.zero_grad()
        loss_of(pixels).backward()
        optimizer.step()
        schedule.step()
        defence.after_update()
    return defence.requires_grad_(False).eval()
