"""Training configurations: TOML in, validated structs out.

A misspelt key, a wrong type or an impossible value is a ``UsageError`` that names the key, the value and the
choices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

from sdk.errors import UsageError
from trainer.config.errors import explain
from trainer.config.overrides import override

Count = Annotated[int, msgspec.Meta(ge=1)]
Weight = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Base of all sections: an unknown key is an error."""


class Data(Section):
    """What is trained on; ``name`` is one that ``trainer.data.open_dataset`` knows.

    ``validation`` images are split off the training set by a fixed permutation, for choosing; the test images
    are never read in training.
    """

    name: Literal["cifar10", "svhn", "gtsrb", "imagenet"]
    validation: Count = 2000
    crop_padding: Annotated[int, msgspec.Meta(ge=0)] = 4
    flip: bool = True


class RenPurifier(Section):
    """REN's denoiser; see ``trainer.models.ren``."""

    count: Count = 4
    atoms: Count = 96
    atoms_per_encoder: Count = 80
    atoms_kept: Count = 86  #: atoms that a draw's random mask leaves in place
    patch: Literal[4, 8] = 4
    iterations: Count = 2
    threshold: Weight = 0.01  #: initial, learned from there on; 0: no shrinkage, so a linear code

    def __post_init__(self) -> None:
        for key in ("atoms_per_encoder", "atoms_kept"):
            value = getattr(self, key)
            if value > self.atoms:
                raise ValueError(f"{key}: expected at most atoms = {self.atoms}, got {value}")


class MaepPurifier(Section):
    """MAEP's masked autoencoder; see ``trainer.models.maep``."""

    patch: Count = 4  #: side of a patch, in pixels
    width: Count = 128
    encoder_blocks: Count = 4
    decoder_blocks: Count = 2
    heads: Count = 4
    patches_kept: Count | None = None  #: patches that a draw keeps; left out, all: the paper's inference
    adapter_rank: Annotated[int, msgspec.Meta(ge=0)] = 0  #: of the decoder's low-rank adapters; 0 for none

    def __post_init__(self) -> None:
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width: expected a multiple of 4 and of heads = {self.heads}, got {self.width}")


class Classifier(Section):
    """The diverse classifier, ``count`` members on one trunk; see ``trainer.models.classifier``.

    ``widths`` and ``blocks`` shape the edge network, the other kinds have theirs; ``factory`` is
    "package.module:callable", for the kind "module".
    """

    kind: Literal["edge", "resnet18", "wrn-28-10", "module"] = "edge"
    count: Count = 2
    widths: tuple[int, ...] = (64, 128, 128)
    blocks: Count = 2
    factory: str | None = None

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(f"widths: expected at least two positive widths, got {list(self.widths)}")
        if self.kind != "edge" and (self.widths, self.blocks) != ((64, 128, 128), 2):
            raise ValueError(f"widths, blocks: expected none, the classifier {self.kind!r} has its own")
        if (self.kind == "module") != (self.factory is not None):
            raise ValueError(
                f"factory: expected for the kind 'module' alone, got {self.factory!r} for {self.kind!r}"
            )


class _Model(Section):
    """What the families have in common."""

    n_classes: Count = 10
    image_size: Count = 32
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[Positive, Positive, Positive] = (0.2470, 0.2435, 0.2616)
    classifier: Classifier = Classifier()


class RenModel(_Model, tag_field="family", tag="ren"):
    """Random encoding networks."""

    purifier: RenPurifier = RenPurifier()

    def __post_init__(self) -> None:
        stride = self.purifier.patch // 2
        if self.image_size % stride:
            raise ValueError(
                f"image_size: expected a multiple of {stride}, half of the patch, got {self.image_size}"
            )


class MaepModel(_Model, tag_field="family", tag="maep"):
    """Masked autoencoder purifier."""

    purifier: MaepPurifier = MaepPurifier()

    def __post_init__(self) -> None:
        if self.image_size % self.purifier.patch:
            raise ValueError(
                f"image_size: expected a multiple of {self.purifier.patch}, the patch, got {self.image_size}"
            )
        n_patches = (self.image_size // self.purifier.patch) ** 2
        if (kept := self.purifier.patches_kept or n_patches) > n_patches:
            raise ValueError(f"patches_kept: expected at most {n_patches}, all of an image, got {kept}")


class PlainModel(_Model, tag_field="family", tag="none"):
    """The classifier alone: the twin that a purifier's worth is measured against."""


#: The defence's shape; stored in the bundle, so that the twin can be rebuilt.
Model = RenModel | MaepModel | PlainModel


class Optimizer(Section):
    """SGD with Nesterov momentum, or AdamW, on a one-cycle schedule; the average of the weights is kept."""

    kind: Literal["sgd", "adamw"] = "sgd"
    epochs: Count = 20
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


class Loss(Section):
    """Weights of the loss's terms; 0 switches a term off.  See ``trainer.objectives``."""

    label_smoothing: Share = 0.1
    reconstruction: Weight = 4.0
    code_stability: Weight = 0.05
    diversity: Weight = 0.05
    diversity_images: Count = 32
    diversity_every: Count = 4
    mask_ramp: tuple[float, float] = (0.5, 0.8)  #: shares of training between which masks grow to full size

    def __post_init__(self) -> None:
        start, end = self.mask_ramp
        if not 0 <= start < end <= 1:
            raise ValueError(f"mask_ramp: expected 0 <= start < end <= 1, got {list(self.mask_ramp)}")


class CleanRecipe(Section, tag_field="kind", tag="clean"):
    """No adversary of the classifier, only the label-free adversary of the code, within ``eps``.

    The family "none" has no code: its classifier sees all images as they are.
    """

    eps: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 8 / 255  #: in the images' units, [0, 1]
    raw_share: Share = 0.15  #: of a batch, that the classifier sees as it is
    attacked_share: Share = 0.4  #: of a batch, that it sees code-attacked and purified

    def __post_init__(self) -> None:
        if self.raw_share + self.attacked_share > 1:
            raise ValueError(f"attacked_share: expected at most 1 - raw_share, got {self.attacked_share}")


class AdversarialRecipe(Section, tag_field="kind", tag="adversarial"):
    """Adversarial training by N-FGSM, with two-step PGD at the end, attacking and updating the same draw.

    ``soft_targets`` is a file of ``edge-train soften``; the labels are then neither used nor smoothed in the
    cross-entropy. ``weight_perturbation`` is the norm of the adversarial weight perturbation over the norm of
    each weight of the classifier; see ``trainer.objectives.weight_perturbation``. Each process
    and micro-batch perturbs by its own images' gradient.
    """

    eps: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 8 / 255  #: in the images' units, [0, 1]
    eps_ramp: Share = 0.15  #: of training, in which eps rises from 0
    pgd_tail: Share = 0.1  #: of training, at its end, with two attack steps instead of one
    probe_images: Count = 2000  #: validation images attacked by PGD-10 after every epoch
    soft_targets: str | None = None
    weight_perturbation: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0  #: 0: none


class MaskedRecipe(Section, tag_field="kind", tag="masked"):
    """MAEP's first two stages: attacked images are brought back to the clean ones, some patches masked.

    The attack is PGD on the classifier alone.  It comes from ``bank``, a file of ``edge-train bank``;
    if none is named, it is made anew in every step, and for validation.  The second stage trains adapters
    only, without masking.
    """

    bank: str | None = None
    eps: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 8 / 255  #: [0, 1] units, of attacks made in a step
    attack_steps: Count = 10  #: of attacks made in a step
    clean_share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.25  #: of a batch, that is not attacked
    #: Shares of the patches that are masked; the steps take turns.
    masking: tuple[Annotated[float, msgspec.Meta(ge=0, lt=1)], ...] = (0.0, 0.5)
    adapters_only: bool = False

    def __post_init__(self) -> None:
        if not self.masking:
            raise ValueError("masking: expected at least one share of masked patches, for example [0.0, 0.5]")


class AtopRecipe(Section, tag_field="kind", tag="atop"):
    """The whole purifier, fine-tuned through a frozen classifier on images attacked through both."""

    eps: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 8 / 255  #: in the images' units, [0, 1]
    attack_steps: Count = 1  #: 1 is N-FGSM, more are PGD
    clean_share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.25  #: of a batch, that is not attacked
    probe_images: Count = 2000  #: validation images attacked by PGD-10 after every epoch


Recipe = CleanRecipe | AdversarialRecipe | MaskedRecipe | AtopRecipe


class Start(Section):
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


class Config(Section):
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
        family, kind = (part.__struct_config__.tag for part in (self.model, self.recipe))
        if kind not in (kinds := _RECIPES[family]):
            raise ValueError(f"recipe.kind: expected {' or '.join(kinds)} for {family!r}, got {kind!r}")
        rank = self.model.purifier.adapter_rank if family == "maep" else 0
        adapters_only = kind == "masked" and self.recipe.adapters_only
        if (rank > 0) != adapters_only:
            raise ValueError(
                f"model.purifier.adapter_rank: expected {'> 0' if adapters_only else '0'}, got {rank}: "
                "adapters belong to the recipe 'masked' with adapters_only = true, which trains them alone"
            )


_RECIPES = {"ren": ("clean", "adversarial"), "maep": ("masked", "atop"), "none": ("clean", "adversarial")}


def load(path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a TOML config and apply ``section.key=value`` overrides; see ``trainer.config.overrides``."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"config {path}: {error.strerror}; configs of this project lie in trainer/configs/"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config {path}: not TOML: {error}") from None
    override(tree, overrides)
    return from_dict(tree, where=f"config {path}")


def from_dict(tree: dict[str, Any], *, where: str) -> Config:
    """Validate a decoded config; ``where`` heads the error."""
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {explain(error, Config, tree)}") from None


def to_dict(config: msgspec.Struct) -> dict[str, Any]:
    """The config as plain JSON-able data."""
    return msgspec.to_builtins(config)
