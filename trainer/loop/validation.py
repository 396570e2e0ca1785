"""Validation: accuracy on the held-out training images, clean and under a short attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trainer.config import AdversarialRecipe, AtopRecipe, MaskedRecipe, Recipe
from trainer.data import DataSet, keyed_generator
from trainer.loop.errors import TrainingError
from trainer.models import Defence, Draw
from trainer.objectives.attacks import pgd
from trainer.robustness.attacks.losses import Loss, cross_entropy, margin

RAW_IMAGES = 500  # clean ones that a frozen classifier must know
COLLAPSE_IMAGES = 512  # attacked to notice a collapse, which is far larger than the noise of so few


def measure(
    average: Defence, current: Defence, images: DataSet, recipe: Recipe, seed: int
) -> dict[str, float]:
    """Accuracy of the averaged weights, and under adversarial training of both weights under attack.

    ``images`` come attacked from a masked recipe's bank; where it has none, the attack is made here.
    """
    if isinstance(recipe, MaskedRecipe) and recipe.bank is None:
        figures = blind_accuracy(average, images, seed, eps=recipe.eps, steps=recipe.attack_steps)
    else:
        figures = clean_accuracy(average, images, seed)
    if isinstance(recipe, AdversarialRecipe | AtopRecipe):
        some = images.subset(spread(len(images), recipe.probe_images))
        few = images.subset(spread(len(images), min(recipe.probe_images, COLLAPSE_IMAGES)))
        figures["robust"] = pgd_accuracy(average, some, seed, eps=recipe.eps)
        figures["robust_now"] = pgd_accuracy(current, few, seed, eps=recipe.eps)
    return figures


def clean_accuracy(defence: Defence, images: DataSet, seed: int) -> dict[str, float]:
    """Accuracy through random draws ("purified"), and of the drawn classifiers on raw images ("raw")."""
    return _accuracy(defence, images, seed, lambda batch, labels, draw, generator: batch)


def blind_accuracy(
    defence: Defence, images: DataSet, seed: int, *, eps: float, steps: int
) -> dict[str, float]:
    """As ``clean_accuracy``, of images attacked by PGD through the drawn classifier, blind to the purifier.

    What a purifier of such attacks is judged by: on clean images none is better than one that does nothing.
    """

    def attacked(batch: Tensor, labels: Tensor, draw: Draw, generator: torch.Generator) -> Tensor:
        return _attack(defence.classify, batch, labels, draw, generator, eps=eps, steps=steps)

    return _accuracy(defence, images, seed, attacked)


def pgd_accuracy(defence: Defence, images: DataSet, seed: int, *, eps: float, steps: int = 10) -> float:
    """Accuracy under PGD on the margin through the whole defence, by an attack that knows the draw.

    The margin, since cross-entropy flatters models that were trained adversarially, with smoothed labels even
    more: by about 3 points.
    """
    defence.eval()
    generator = keyed_generator(seed, "probe")
    correct = 0
    for batch, labels, draw in _validation_batches(defence, images, generator):
        attacked = _attack(defence, batch, labels, draw, generator, eps=eps, steps=steps, loss=margin)
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


def spread(count: int, wanted: int) -> Tensor:
    """Rows of ``wanted`` of ``count`` images, evenly spread: the images may be in order of their classes."""
    return torch.arange(min(count, wanted)) * count // max(1, min(count, wanted))


def check_frozen_classifier(defence: Defence, images: DataSet, seed: int) -> None:
    """A classifier that isn't trained must know the clean ``images``.

    Raises:
        TrainingError: it is right hardly more often than by chance.
    """
    n_classes = len(images.labels)
    some = images.subset(spread(len(images), RAW_IMAGES))
    accuracy = clean_accuracy(defence, some, seed)["raw"]
    chance = 1 / n_classes
    by_luck = chance + 3 * (chance * (1 - chance) / len(some)) ** 0.5
    if accuracy < max(by_luck, min(2 * chance, 0.5)):
        raise TrainingError(
            f"the classifier, which this recipe leaves as it is, is right on {accuracy:.1%} of {len(some)} "
            f"clean validation images; by chance it would be on {chance:.1%}",
            hint="check data.classes (the order of its classes), model.mean and model.std (its pixels' "
            "normalization), and start.classifier",
        )


def _accuracy(
    defence: Defence, images: DataSet, seed: int, prepared: Callable[..., Tensor]
) -> dict[str, float]:
    """Of what ``prepared`` makes of (images, labels, draw, generator)."""
    defence.eval()
    generator = keyed_generator(seed, "validation draws")
    correct = {"purified": 0, "raw": 0}
    for batch, labels, draw in _validation_batches(defence, images, generator):
        seen = prepared(batch, labels, draw, generator)
        with torch.no_grad():
            correct["purified"] += int((defence(seen, draw).argmax(1) == labels).sum())
            correct["raw"] += int((defence.classify(seen, draw).argmax(1) == labels).sum())
    return {name: count / len(images) for name, count in correct.items()}


def _attack(
    logits_of: Callable[[Tensor, Draw], Tensor],
    images: Tensor,
    labels: Tensor,
    draw: Draw,
    generator: torch.Generator,
    *,
    eps: float,
    steps: int,
    loss: Loss = cross_entropy,
) -> Tensor:
    """PGD that knows the draw."""
    noise = torch.rand(images.shape, generator=generator).to(images.device)

    def loss_of(x: Tensor) -> Tensor:
        return loss(logits_of(x, draw).float(), labels).sum()

    return pgd(loss_of, images, eps=eps, steps=steps, step_size=eps / 4, noise=noise)


def _validation_batches(
    defence: Defence, images: DataSet, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Draw]]:
    device = next(defence.parameters()).device
    for batch, labels in images.batches(256):
        yield batch.to(device), labels.to(device), defence.draw(len(labels), generator).to(device)
