"""Training configurations: TOML in, validated structs out.

A misspelt key, a wrong type or an impossible value is a ``UsageError`` that names the key, the value and the
choices.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from sdk.errors import UsageError
from sdk.given import read_given_text
from trainer.config.errors import explain
from trainer.config.models import (
    Classifier,
    MaepModel,
    MaepPurifier,
    Model,
    PlainModel,
    RenModel,
    RenPurifier,
)
from trainer.config.overrides import override
from trainer.config.recipes import AdversarialRecipe, AtopRecipe, CleanRecipe, MaskedRecipe, Recipe
from trainer.config.section import Count, Positive, Section, Share, Weight

__all__ = [
    "AdversarialRecipe",
    "AtopRecipe",
    "Classifier",
    "CleanRecipe",
    "Config",
    "Data",
    "Loss",
    "MaepModel",
    "MaepPurifier",
    "MaskedRecipe",
    "Model",
    "Optimizer",
    "PlainModel",
    "Recipe",
    "RenModel",
    "RenPurifier",
    "Start",
    "from_dict",
    "load",
    "to_dict",
]


FROZEN_KINDS = ("module", "onnx")  # of classifiers that users bring, trained: left as they are unless asked


class Data(Section, frozen=True):
    """What is trained on; ``name`` is one that ``trainer.data.open_dataset`` knows.

    ``validation`` images are split off the training set by a fixed permutation, for choosing; the test images
    are never read in training.
    """

    name: Literal["cifar10", "svhn", "gtsrb", "imagenet", "folders"]
    validation: Count = 2000
    #: For "folders": class names in the order of the logits, or the path of a file with one name a line.
    #: Without them the folders' names, sorted.
    classes: tuple[str, ...] | str | None = None
    #: For "folders" without a folder for each split: share of the pictures that are training images.
    train_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.8
    crop_padding: Annotated[int, msgspec.Meta(ge=0)] = 4
    flip: bool = True
    brightness: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0  #: the factor is 1 ± this
    contrast: Annotated[float, msgspec.Meta(ge=0, lt=1)] = (
        0.0  #: likewise, of the distance from the image's mean
    )


class Optimizer(Section, frozen=True):
    """SGD with Nesterov momentum, or AdamW, on a one-cycle schedule; the average of the weights is kept."""

    kind: Literal["sgd", "adamw"] = "sgd"
    epochs: Count = 20
    epoch_steps: Annotated[int, msgspec.Meta(ge=0)] = 0  #: an epoch has at most so many; 0: no bound
    batch_size: Count = 128  #: of all processes and micro-batches together
    micro_batches: Count = 1  #: parts that a process's batch is cut into, their gradients accumulated
    save_every: Annotated[int, msgspec.Meta(ge=0)] = 0  #: steps between two saves in an epoch; 0: none
    learning_rate: Positive = 0.2
    purifier_learning_rate: Positive = 0.02
    warmup: Share = 0.2  #: share of the steps on which the learning rate rises
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    weight_decay: Weight = 5e-4
    ema: Share = 0.999  #: decay a step of the averaged weights that are evaluated and exported
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    channels_last: bool = True


class Loss(Section, frozen=True):
    """Weights of the loss's terms; 0 switches a term off. See ``trainer.objectives``."""

    label_smoothing: Share = 0.1
    reconstruction: Weight = 4.0
    guidance: Weight = 0.0  #: of masked training, by the classifier's logits
    code_stability: Weight = 0.05
    diversity: Weight = 0.05
    diversity_images: Count = 32
    diversity_every: Count = 4
    mask_ramp: tuple[float, float] = (0.5, 0.8)  #: shares of training between which masks grow to full size

    def __post_init__(self) -> None:
        start, end = self.mask_ramp
        if not 0 <= start < end <= 1:
            raise ValueError(f"mask_ramp: expected 0 <= start < end <= 1, got {list(self.mask_ramp)}")


class Start(Section, frozen=True):
    """Weights that a run starts from: a checkpoint, or a bundle's folder, whose twin is read.

    What is left out starts untrained. At most one of ``classifier``, ``features`` and ``widen`` is given.
    """

    purifier: str | None = None
    classifier: str | None = None
    #: All of the classifier but its last linear layers: for a data set with other classes.
    features: str | None = None
    #: A classifier with narrower ``widths``, widened to the same function (Net2Net).
    widen: str | None = None
    #: Standard deviation of the noise that tells copied channels apart, over that of the weight.
    widen_noise: Weight = 0.01

    def __post_init__(self) -> None:
        given = [key for key in ("classifier", "features", "widen") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[1]}: expected one source of the classifier, got {' and '.join(given)}")


class Config(Section, frozen=True):
    """One training run."""

    name: str
    data: Data
    model: Model
    recipe: Recipe
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0  #: what a torch generator takes
    start: Start = Start()
    optimizer: Optimizer = Optimizer()
    loss: Loss = Loss()

    def __post_init__(self) -> None:
        family, kind = (str(part.__struct_config__.tag) for part in (self.model, self.recipe))
        if kind not in (kinds := _RECIPES[family]):
            raise ValueError(f"recipe.kind: expected {' or '.join(kinds)} for {family!r}, got {kind!r}")
        self._check_freezing(family)
        rank = self.model.purifier.adapter_rank if isinstance(self.model, MaepModel) else 0
        adapters_only = isinstance(self.recipe, MaskedRecipe) and self.recipe.adapters_only
        if (rank > 0) != adapters_only:
            raise ValueError(
                f"model.purifier.adapter_rank: expected {'> 0' if adapters_only else '0'}, got {rank}: "
                "adapters belong to the recipe 'masked' with adapters_only = true, which trains them alone"
            )

    @property
    def freezes_classifier(self) -> bool:
        """Whether the purifier alone is trained."""
        if isinstance(self.recipe, MaskedRecipe):
            return True
        if self.recipe.freeze_classifier is not None:
            return self.recipe.freeze_classifier
        return self.model.classifier.kind in FROZEN_KINDS and not isinstance(self.model, PlainModel)

    def _check_freezing(self, family: str) -> None:
        if self.freezes_classifier and isinstance(self.model, PlainModel):
            raise ValueError(
                f"recipe.freeze_classifier: expected false for {family!r}, which has no purifier"
            )
        is_perturbed = isinstance(self.recipe, AdversarialRecipe) and self.recipe.weight_perturbation > 0
        if self.freezes_classifier and is_perturbed:
            raise ValueError(
                "recipe.weight_perturbation: expected 0 with a frozen classifier, which has no weights to "
                "learn; set recipe.freeze_classifier = false to train it"
            )


_RECIPES = {
    "ren": ("clean", "adversarial", "atop"),
    "maep": ("masked", "atop"),
    "none": ("clean", "adversarial"),
}


def load(path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a TOML config and apply ``section.key=value`` overrides; see ``trainer.config.overrides``."""
    try:
        tree = tomllib.loads(read_given_text(path))
    except OSError as error:
        raise UsageError(
            f"config {path}: {error.strerror}", hint="configs of this project lie in trainer/configs/"
        ) from None
    except RecursionError:
        raise UsageError(f"config {path}: not TOML that is read here: nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise UsageError(f"config {path}: not TOML: {error}") from None
    override(tree, overrides)
    return from_dict(tree, where=f"config {path}")


def from_dict(tree: dict[str, Any], *, where: str) -> Config:
    """Validate a decoded config; ``where`` heads the error."""
    try:
        return msgspec.convert(tree, Config)
    except (RecursionError, UnicodeEncodeError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a text that isn't Unicode"
        raise UsageError(f"{where}: {reason}") from None
    except msgspec.ValidationError as error:
        try:
            reason = explain(error, Config, tree)
        except (LookupError, StopIteration, TypeError, ValueError, AttributeError):  # keys like no config's
            reason = " ".join(str(error).split())
        raise UsageError(f"{where}: {reason}") from None


def to_dict(config: msgspec.Struct) -> dict[str, Any]:
    """The config as plain JSON-able data."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    return tree
