"""Adversarial training of the purifier alone (AToP; Lin et al., arXiv 2401.16352), of MAEP or REN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import AtopRecipe, Loss
from trainer.models.defence import Defence, Draw
from trainer.objectives.attacks import n_fgsm, pgd
from trainer.objectives.objective import LossAndTerms, Objective


class AtopObjective(Objective):
    """Cross-entropy of attacked, purified images by the classifier, and their l1 distance to the clean.

    The attack goes through purifier and classifier under the same draw. The whole purifier learns; adapters
    alone are too few to withstand such an attack. The classifier is frozen unless the recipe says otherwise;
    see ``trainer.objectives.build``. The first ``clean_share`` of a batch stays clean.

    ``attack_steps`` is the recipe's until the collapse guard raises it.
    """

    def __init__(self, defence: Defence, recipe: AtopRecipe, weights: Loss) -> None:
        super().__init__(defence)
        self.recipe = recipe
        self.weights = weights
        self.attack_steps = recipe.attack_steps

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
        self.keep_frozen()
        n_clean = min(round(self.recipe.clean_share * len(images)), len(images) - 1)
        rest = slice(n_clean, None)
        attacked = self._attack(images[rest], labels[rest], draw[rest], noise[rest])
        mixed = torch.cat([images[:n_clean], attacked])
        purified = self.defence.purifier.unclamped(mixed, draw.purifier, draw.random_input)
        logits = self.defence.classify(purified.clamp(0, 1), draw).float()
        terms = {
            "cross_entropy": F.cross_entropy(logits, labels, label_smoothing=self.weights.label_smoothing),
            "reconstruction": (purified - images).abs().mean(),
            "robust_accuracy": (logits[rest].argmax(1) == labels[rest]).float().mean(),
        }
        loss = terms["cross_entropy"] + self.weights.reconstruction * terms["reconstruction"]
        return loss, {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    def _attack(self, images: Tensor, labels: Tensor, draw: Draw, noise: Tensor) -> Tensor:
        def loss_of(attacked: Tensor) -> Tensor:
            return F.cross_entropy(self.defence(attacked, draw).float(), labels, reduction="sum")

        eps, steps = self.recipe.eps, self.attack_steps
        if steps == 1:
            return n_fgsm(loss_of, images, eps=eps, noise=noise)
        return pgd(loss_of, images, eps=eps, steps=steps, step_size=1.5 * eps / steps, noise=noise)
