"""Adversarial training of REN, or of the same classifier without a purifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import AdversarialRecipe, Loss
from trainer.models.defence import Defence, Draw
from trainer.models.ren import SparseEncodingPurifier
from trainer.objectives.attacks import gradient_of, n_fgsm, pgd
from trainer.objectives.losses import code_change, pair_diversity
from trainer.objectives.objective import LossAndTerms, Objective
from trainer.objectives.weight_perturbation import WeightPerturbation


class AdversarialObjective(Objective):
    """Cross-entropy of attacked, purified images, attacked through the defence under the **same** draw.

    (Attacking one draw and updating another trains against transferred attacks, and rewards gradients that
    merely point elsewhere.) REN adds the distance of the purified image from the clean one, and the stability
    of the code.

    ``attack_steps`` is 1, N-FGSM, until the collapse guard raises it; more are PGD, as in the last part of
    training. With ``recipe.weight_perturbation`` the classifier's weights are perturbed between the attack
    and ``after_backward``.
    """

    def __init__(self, defence: Defence, recipe: AdversarialRecipe, weights: Loss) -> None:
        super().__init__(defence)
        self.recipe = recipe
        self.weights = weights
        size = recipe.weight_perturbation
        self.perturbation = WeightPerturbation(defence.classifier, size) if size else None

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
        """Loss and detached terms; soft targets replace smoothed labels in the cross-entropy alone."""
        self.keep_frozen()
        attacked = self._attack(images, labels, draw, noise, share)
        terms: dict[str, Tensor] = {}
        if isinstance(self.defence.purifier, SparseEncodingPurifier):
            encode = self.defence.purifier.encode_and_decode
            attacked_code, seen = encode(attacked, draw.purifier, draw.random_input)
            terms["reconstruction"] = (seen - images).abs().mean()
            if self.weights.code_stability:
                with torch.no_grad():
                    code, _ = encode(images, draw.purifier, draw.random_input)
                terms["code_stability"] = code_change(attacked_code, code)
        else:
            seen = self.defence.purify(attacked, draw)
        logits = self.defence.classify(seen, draw).float()
        if soft_targets is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=self.weights.label_smoothing)
        else:
            loss = F.cross_entropy(logits, soft_targets)
        terms["robust_accuracy"] = (logits.argmax(1) == labels).float().mean()
        for name in ("reconstruction", "code_stability"):
            if name in terms:
                loss = loss + getattr(self.weights, name) * terms[name]
        if self.weights.diversity and step % self.weights.diversity_every == 0:
            rows = slice(0, self.weights.diversity_images)
            terms["diversity"] = pair_diversity(self.defence, attacked[rows], labels[rows], draw[rows])
            loss = loss + self.weights.diversity * terms["diversity"]
        return loss, {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    def steps_at(self, share: float) -> int:
        """Number of attack steps when ``share`` of training is over."""
        return self.attack_steps if share < 1 - self.recipe.pgd_tail else max(2, self.attack_steps)

    def after_backward(self) -> None:
        """Restore the perturbed weights."""
        if self.perturbation is not None:
            self.perturbation.undo()

    def _attack(self, images: Tensor, labels: Tensor, draw: Draw, noise: Tensor, share: float) -> Tensor:
        """Attacked images, (B, 3, H, W), at ``share`` of training; perturbs the weights too, if asked."""
        ramp = self.recipe.eps_ramp
        eps = self.recipe.eps * min(1.0, share / ramp if ramp else 1.0)

        def loss_of(attacked: Tensor) -> Tensor:
            return F.cross_entropy(self.defence(attacked, draw).float(), labels, reduction="sum")

        steps = self.steps_at(share)
        gradient = gradient_of if self.perturbation is None else self.perturbation.gradient_of
        if steps == 1:
            attacked = n_fgsm(loss_of, images, eps=eps, noise=noise, last_gradient=gradient)
        else:
            size = 1.5 * eps / steps
            attacked = pgd(
                loss_of, images, eps=eps, steps=steps, step_size=size, noise=noise, last_gradient=gradient
            )
        if self.perturbation is not None:
            self.perturbation.apply()
        return attacked
