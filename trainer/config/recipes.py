"""The ``recipe`` section: what a run minimizes, and against which attack; see ``trainer.objectives``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trainer.config.section import Count, Section, Share


class CleanRecipe(Section, frozen=True, tag_field="kind", tag="clean"):
    """No adversary of the classifier, only the label-free adversary of the code, within ``eps``.

    The family "none" has no code: its classifier sees all images as they are.
    """

    eps: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 8 / 255  #: in the images' units, [0, 1]
    raw_share: Share = 0.15  #: of a batch, that the classifier sees as it is
    attacked_share: Share = 0.4  #: of a batch, that it sees code-attacked and purified
    freeze_classifier: bool | None = (
        None  #: train the purifier alone; by default for a classifier of your own
    )

    def __post_init__(self) -> None:
        if self.raw_share + self.attacked_share > 1:
            raise ValueError(f"attacked_share: expected at most 1 - raw_share, got {self.attacked_share}")


class AdversarialRecipe(Section, frozen=True, tag_field="kind", tag="adversarial"):
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
    freeze_classifier: bool | None = (
        None  #: train the purifier alone; by default for a classifier of your own
    )


class MaskedRecipe(Section, frozen=True, tag_field="kind", tag="masked"):
    """MAEP's first two stages: attacked images are brought back to the clean ones, some patches masked.

    The attack is PGD on the classifier alone. It comes from ``bank``, a file of ``edge-train bank``;
    if none is named, it is made in every step, and for validation. The second stage trains adapters
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


class AtopRecipe(Section, frozen=True, tag_field="kind", tag="atop"):
    """The whole purifier, fine-tuned through the classifier on images attacked through both."""

    eps: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 8 / 255  #: in the images' units, [0, 1]
    attack_steps: Count = 1  #: 1 is N-FGSM, more are PGD
    clean_share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.25  #: of a batch, that is not attacked
    probe_images: Count = 2000  #: validation images attacked by PGD-10 after every epoch
    freeze_classifier: bool = True  #: train the purifier alone, as the paper does


Recipe = CleanRecipe | AdversarialRecipe | MaskedRecipe | AtopRecipe
