"""What a run is steered by: accuracy on the held-out training images, clean and under a short attack."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.adversary import pgd
from trainer.data import DataSet, keyed_generator
from trainer.models import Defence, Draw


@torch.no_grad()
def clean_accuracy(defence: Defence, images: DataSet, seed: int) -> dict[str, float]:
    """Accuracy through random draws ("purified"), and of the drawn classifiers on raw images ("raw")."""
    defence.eval()
    generator = keyed_generator(seed, "validation draws")
    correct = {"purified": 0, "raw": 0}
    for batch, labels, draw in _validation_batches(defence, images, generator):
        correct["purified"] += int((defence(batch, draw).argmax(1) == labels).sum())
        correct["raw"] += int((defence.classify(batch, draw).argmax(1) == labels).sum())
    return {name: count / len(images) for name, count in correct.items()}


def pgd_accuracy(defence: Defence, images: DataSet, seed: int, *, eps: float, steps: int = 10) -> float:
    """Accuracy under PGD through the whole defence, the attack knowing the draw that it is judged by."""
    defence.eval()
    generator = keyed_generator(seed, "probe")
    correct = 0
    for batch, labels, draw in _validation_batches(defence, images, generator):
        attacked = _attack(defence, batch, labels, draw, generator, eps=eps, steps=steps)
        with torch.no_grad():
            correct += int((defence(attacked, draw).argmax(1) == labels).sum())
    return correct / len(images)


def pictures(defence: Defence, images: DataSet, seed: int, *, eps: float, count: int = 8) -> Tensor:
    """The first ``count`` images, attacked through the whole defence, and purified: (3, count, 3, H, W)."""
    defence.eval()
    generator = keyed_generator(seed, "pictures")
    for batch, labels, draw in _validation_batches(defence, images.subset(slice(count)), generator):
        attacked = _attack(defence, batch, labels, draw, generator, eps=eps, steps=10)
        with torch.no_grad():
            return torch.stack([batch, attacked, defence.purify(attacked, draw).float()])
    raise ValueError("expected at least one image")


def _attack(
    defence: Defence,
    images: Tensor,
    labels: Tensor,
    draw: Draw,
    generator: torch.Generator,
    *,
    eps: float,
    steps: int,
) -> Tensor:
    """PGD that knows the draw."""
    noise = torch.rand(images.shape, generator=generator).to(images.device)

    def loss_of(x: Tensor) -> Tensor:
        return F.cross_entropy(defence(x, draw).float(), labels, reduction="sum")

    return pgd(loss_of, images, eps=eps, steps=steps, step_size=eps / 4, noise=noise)


def _validation_batches(
    defence: Defence, images: DataSet, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Draw]]:
    device = next(defence.parameters()).device
    for batch, labels in images.batches(256):
        yield batch.to(device), labels.to(device), defence.draw(len(labels), generator).to(device)
