"""Clean training of a classifier without a purifier."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainer.config import CleanRecipe, Loss
from trainer.models.defence import Defence, Draw
from trainer.objectives.losses import pair_diversity
from trainer.objectives.objective import LossAndTerms, Objective


class PlainObjective(Objective):
    """Cross-entropy of images as they are, and the members' diversity."""

    def __init__(self, defence: Defence, recipe: CleanRecipe, weights: Loss) -> None:
        super().__init__(defence)
        self.weights = weights

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        draw: Draw,
        noise: Tensor,
        *,
        step: int,
        share: float,
        soft_targets: Tensor | None = None,
    ) -> LossAndTerms:
        """Loss and detached terms; see ``trainer.objectives`` for the arguments."""
        logits = self.defence.classify(images, draw).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.weights.label_smoothing)
        terms = {"cross_entropy": loss, "accuracy": (logits.argmax(1) == labels).float().mean()}
        if self.weights.diversity and step % self.weights.diversity_every == 0:
            rows = slice(0, self.weights.diversity_images)
            terms["diversity"] = pair_diversity(self.defence, images[rows], labels[rows], draw[rows])
            loss = loss + self.weights.diversity * terms["diversity"]
        return loss, {name: term.detach() for name, term in terms.items()}
