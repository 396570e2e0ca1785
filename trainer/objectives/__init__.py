"""What a training step minimizes, as modules: (images, labels, draw, noise, …) -> loss and detached terms.

An objective holds the defence, so that data-parallel training wraps both in one module.  Its arguments:

* images: float32 (B, 3, H, W) in [0, 1], or (B, 6, H, W) with a bank's attacked ones behind them;
* labels: int64 (B,); draw: B draws;
* noise: of the images' shape, uniform in [0, 1), for an adversary's start;
* step: the step's number in the run, from 0; share: the part of training that is over, in [0, 1).
"""

from __future__ import annotations

from torch import nn

from trainer.config import AdversarialRecipe, AtopRecipe, CleanRecipe, Config, MaskedRecipe
from trainer.models import Defence
from trainer.objectives.adversarial import AdversarialObjective
from trainer.objectives.atop import AtopObjective
from trainer.objectives.clean import CleanObjective
from trainer.objectives.masked import MaskedObjective

__all__ = ["AdversarialObjective", "AtopObjective", "CleanObjective", "MaskedObjective", "build"]

KINDS: dict[type, type[nn.Module]] = {
    CleanRecipe: CleanObjective,
    AdversarialRecipe: AdversarialObjective,
    MaskedRecipe: MaskedObjective,
    AtopRecipe: AtopObjective,
}


def build(defence: Defence, config: Config) -> nn.Module:
    """The objective of the config's recipe; it freezes what the recipe leaves as it is."""
    return KINDS[type(config.recipe)](defence, config.recipe, config.loss)
