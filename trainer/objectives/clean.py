"""Clean training of REN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import CleanRecipe, Loss
from trainer.models.defence import Defence, Draw
from trainer.models.ren import SparseEncodingPurifier
from trainer.objectives.losses import code_change, pair_diversity
from trainer.objectives.objective import LossAndTerms, Objective


class CleanObjective(Objective):
    """Cross-entropy of purified images, with sparse codes that resist a label-free adversary.

    'Adversarial sparse coding' is read as an adversary of the **code**: x' = x + delta, |delta| <= eps,
    maximizes ||z(x') - z(x)||_1 through the drawn sub-encoder alone, in one step from a random start. It
    sees neither labels nor classifier. The purifier is asked to bring both x and x' back to x, and z(x')
    back to z(x). Only the first share of a batch is attacked; the classifier sees those repaired, the last
    share raw, and the rest purified.
    """

    def __init__(self, defence: Defence, recipe: CleanRecipe, weights: Loss) -> None:
        super().__init__(defence)
        if not isinstance(defence.purifier, SparseEncodingPurifier):
            raise TypeError(f"expected a SparseEncodingPurifier, got {type(defence.purifier).__name__}")
        self._purifier = (defence.purifier,)  # no sub-module: it is the defence's
        self.recipe = recipe
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
        self.keep_frozen()
        n_attacked = round(self.recipe.attacked_share * len(images))
        n_raw = round(self.recipe.raw_share * len(images))
        purify = self._purifier[0].encode_and_decode
        code, purified = purify(images, draw.purifier, draw.random_input)
        few, few_draw = images[:n_attacked], draw[:n_attacked]
        attacked = self._attack_code(few, code[:n_attacked].detach(), few_draw, noise[:n_attacked])
        attacked_code, repaired = purify(attacked, few_draw.purifier, few_draw.random_input)
        seen = torch.cat(
            [repaired, purified[n_attacked : len(images) - n_raw], images[len(images) - n_raw :]]
        )
        logits = self.defence.classify(seen, draw)
        error = (purified - images).abs().mean()
        if n_attacked:
            error = (error + (repaired - few).abs().mean()) / 2
        terms = {
            "cross_entropy": F.cross_entropy(
                logits.float(), labels, label_smoothing=self.weights.label_smoothing
            ),
            "reconstruction": error,
            "code_stability": code_change(attacked_code, code[:n_attacked]),
        }
        loss = (
            terms["cross_entropy"]
            + self.weights.reconstruction * terms["reconstruction"]
            + self.weights.code_stability * terms["code_stability"]
        )
        if self.weights.diversity and step % self.weights.diversity_every == 0:
            rows = slice(0, self.weights.diversity_images)
            terms["diversity"] = pair_diversity(self.defence, images[rows], labels[rows], draw[rows])
            loss = loss + self.weights.diversity * terms["diversity"]
        return loss, {name: term.detach() for name, term in terms.items()}

    def _attack_code(self, images: Tensor, code: Tensor, draw: Draw, noise: Tensor) -> Tensor:
        """x', (B, 3, H, W): one signed-gradient step on the code's change, from uniform noise, within eps."""
        eps = self.recipe.eps
        delta = ((2 * noise - 1) * eps).requires_grad_()
        with torch.enable_grad():
            moved, _ = self._purifier[0].encode_and_decode(images + delta, draw.purifier, draw.random_input)
            (gradient,) = torch.autograd.grad((moved - code).abs().sum(), delta)
        return images + (delta.detach() + eps * gradient.sign()).clamp(-eps, eps)
