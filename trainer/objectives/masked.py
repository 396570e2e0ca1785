"""MAEP's first two stages: masked reconstruction and purification in one loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import Loss, MaskedRecipe
from trainer.models import adapters
from trainer.models.defence import Defence, Draw
from trainer.models.maep import MaskedAutoencoder, patchify
from trainer.objectives.attacks import pgd
from trainer.objectives.objective import LossAndTerms, Objective


class MaskedObjective(Objective):
    """l1 distance of purified attacked images from the clean ones, of kept patches and of masked ones.

    With ``guidance`` also that of the classifier's logits, where no patch is masked (Liao et al., CVPR 2018,
    arXiv 1712.02976): what is left of a perturbation is small in the pixels and grows through the network.

    A loss on masked patches alone, as in He et al., would leave the answer to kept ones undefined, and
    these are what a purifier shows. The masked share takes turns through the recipe's, by the step's
    number, so that every process and micro-batch of a step has the same number of tokens. Images were
    attacked through the classifier, blind to the purifier; the first ``clean_share`` of a batch stays
    clean, so that clean images are not changed. The classifier is frozen.
    """

    def __init__(self, defence: Defence, recipe: MaskedRecipe, weights: Loss) -> None:
        super().__init__(defence)
        if not isinstance(defence.purifier, MaskedAutoencoder):
            raise TypeError(f"expected a MaskedAutoencoder, got {type(defence.purifier).__name__}")
        self._purifier = (defence.purifier,)  # no sub-module: it is the defence's
        self.recipe = recipe
        self.weights = weights
        self.freeze_classifier()
        if recipe.adapters_only:
            adapters.only(defence.purifier)

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
        """Loss and detached terms; see ``trainer.objectives`` for the arguments.

        ``images`` are pairs, (B, 6, H, W), if the recipe names a bank; the draw's kept patches aren't used.
        """
        self.keep_frozen()
        clean, attacked = self._pairs(images, labels, draw, noise)
        tiles = self._purifier[0].tiles(*images.shape[2:])
        keep = self._kept_patches(tiles.cut(noise[:, :3]), step)
        purified = self._purifier[0].reconstruct(tiles.cut(attacked), keep)
        difference = (purified - tiles.cut(clean)).abs()
        error = patchify(difference, self._purifier[0].patch).mean(2)  # (B, N)
        is_kept = torch.zeros_like(error, dtype=torch.bool).scatter(1, keep, True)
        terms = {"purification": error[is_kept].mean()}
        loss = terms["purification"]
        if keep.shape[1] < error.shape[1]:
            terms["reconstruction"] = error[~is_kept].mean()
            loss = loss + self.weights.reconstruction * terms["reconstruction"]
        elif self.weights.guidance:
            with torch.no_grad():
                wanted = self.defence.classify(clean, draw)
            logits = self.defence.classify(tiles.join(purified).clamp(0, 1), draw)
            terms["guidance"] = (logits - wanted).abs().mean()
            loss = loss + self.weights.guidance * terms["guidance"]
        return loss, {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    def _pairs(self, images: Tensor, labels: Tensor, draw: Draw, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Clean images and what the purifier is given of each, both (B, 3, H, W)."""
        if self.recipe.bank is None:
            clean, attacked = images, self._attack(images, labels, draw, noise)
        else:
            clean, attacked = images.chunk(2, dim=1)
        n_clean = round(self.recipe.clean_share * len(images))
        return clean, torch.cat([clean[:n_clean], attacked[n_clean:]])

    def _attack(self, images: Tensor, labels: Tensor, draw: Draw, noise: Tensor) -> Tensor:
        def loss_of(attacked: Tensor) -> Tensor:
            return F.cross_entropy(self.defence.classify(attacked, draw).float(), labels, reduction="sum")

        eps = self.recipe.eps
        return pgd(loss_of, images, eps=eps, steps=self.recipe.attack_steps, step_size=eps / 4, noise=noise)

    def _kept_patches(self, noise: Tensor, step: int) -> Tensor:
        """A random subset for each image, (B, K) int64 in increasing order, by the ranks of its noise."""
        masked = self.recipe.masking[step % len(self.recipe.masking)]
        n_patches = self._purifier[0].n_patches
        order = noise[:, 0].flatten(1)[:, :n_patches].argsort(dim=1)
        return order[:, : max(1, round((1 - masked) * n_patches))].sort(dim=1).values
