"""Training objectives, as modules: (images, labels, draw, noise, …) -> loss and detached terms.

An objective holds the defence, so that data-parallel training wraps both in one module. Its arguments:

* images: float32 (B, 3, H, W) in [0, 1], or (B, 6, H, W) with a bank's attacked ones behind them;
* labels: int64 (B,); draw: B draws;
* noise: of the images' shape, uniform in [0, 1), for an adversary's start;
* step: the step's number in the run, from 0; share: the part of training that is over, in [0, 1);
* soft_targets: float32 (B, C), from ``recipe.soft_targets``; None without.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trainer.config import AdversarialRecipe, AtopRecipe, CleanRecipe, Config, MaskedRecipe, PlainModel
from trainer.models import Defence
from trainer.objectives.adversarial import AdversarialObjective
from trainer.objectives.atop import AtopObjective
from trainer.objectives.clean import CleanObjective
from trainer.objectives.masked import MaskedObjective
from trainer.objectives.objective import Objective
from trainer.objectives.plain import PlainObjective

__all__ = [
    "AdversarialObjective",
    "AtopObjective",
    "CleanObjective",
    "MaskedObjective",
    "Objective",
    "PlainObjective",
    "build",
]

KINDS: dict[type, Callable[..., Objective]] = {
    CleanRecipe: CleanObjective,
    AdversarialRecipe: AdversarialObjective,
    MaskedRecipe: MaskedObjective,
    AtopRecipe: AtopObjective,
}


def build(defence: Defence, config: Config, *, n_parts: int = 1) -> Objective:
    """The objective of the config's recipe; it freezes what the recipe leaves as it is.

    ``n_parts`` is how many parts a batch comes in: together they have as many images for diversity as the
    whole.
    """
    kind = KINDS[type(config.recipe)]
    if isinstance(config.recipe, CleanRecipe) and isinstance(config.model, PlainModel):
        kind = PlainObjective  # without a code there is nothing to purify, or to attack
    few = -(-config.loss.diversity_images // n_parts)
    objective = kind(defence, config.recipe, msgspec.structs.replace(config.loss, diversity_images=few))
    if config.freezes_classifier:
        objective.freeze_classifier()
    return objective
