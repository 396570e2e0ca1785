"""The defence as one differentiable model: a bank of purifiers, of any family, then a diverse classifier.

The draw is an argument of every forward pass, never taken inside it, so that an attack, a training step and
a test can each hold it fixed, average over it, or enumerate it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.models.classifier import DiverseClassifier, SingleClassifier
from trainer.models.purifier import PurifierBank, RandomSubset


@dataclass(eq=False)
class Draw:
    """One random choice per image of a batch.

    Attributes:
        purifier: (B,) int64 in [0, K).
        classifier: (B,) int64 in [0, J).
        random_input: (B, W), the purifier's random input: for REN the atom mask, float32, 1 where an atom
            may be used; for MAEP the kept patches, int64, in increasing order; W = 0 where there is none.
    """

    purifier: Tensor
    classifier: Tensor
    random_input: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Draw:
        return Draw(self.purifier[rows], self.classifier[rows], self.random_input[rows])

    def __len__(self) -> int:
        return len(self.purifier)

    def to(self, device: torch.device) -> Draw:
        return Draw(self.purifier.to(device), self.classifier.to(device), self.random_input.to(device))


class Defence(nn.Module):
    """Purify by the drawn purifier, classify by the drawn member."""

    def __init__(self, purifier: PurifierBank, classifier: DiverseClassifier) -> None:
        super().__init__()
        self.purifier = purifier
        self.classifier = classifier

    @property
    def n_purifiers(self) -> int:
        return self.purifier.n_purifiers

    @property
    def n_classifiers(self) -> int:
        return self.classifier.n_classifiers

    @property
    def random_input(self) -> RandomSubset | None:
        return self.purifier.random_input

    def draw(self, count: int, generator: torch.Generator, *, strength: float = 1.0) -> Draw:
        """``count`` independent uniform draws, on the CPU.

        ``strength`` in [0, 1] scales the share that a random input masks.
        """
        if self.random_input is None:
            random_input = torch.zeros(count, 0)
        else:
            random_input = self.random_input.draw(count, generator, strength=strength)
        return Draw(
            purifier=torch.randint(self.n_purifiers, (count,), generator=generator),
            classifier=torch.randint(self.n_classifiers, (count,), generator=generator),
            random_input=random_input,
        )

    def forward(self, images: Tensor, draw: Draw) -> Tensor:
        """Logits (B, n_classes) of ``images`` (B, 3, H, W) in [0, 1] under ``draw``."""
        return self.classify(self.purify(images, draw), draw)

    def purify(self, images: Tensor, draw: Draw) -> Tensor:
        """Purified images (B, 3, H, W) in [0, 1]."""
        purified: Tensor = self.purifier(images, draw.purifier, draw.random_input)
        return purified

    def classify(self, images: Tensor, draw: Draw) -> Tensor:
        """Logits (B, n_classes) of images taken as they are."""
        logits: Tensor = self.classifier(images, draw.classifier)
        return logits

    def after_update(self, steps: int = 1) -> None:
        """Bring what purifiers derive from their weights up to date; call whenever these have changed."""
        self.purifier.after_update(steps)

    def single_purifier(self, index: int) -> nn.Module:
        """Purifier ``index`` as it is exported: (image, random input if there is one) -> purified image."""
        return self.purifier.single(index)

    def single_classifier(self, index: int) -> SingleClassifier:
        """Classifier ``index`` as it is exported."""
        return SingleClassifier(self.classifier, index)
