"""The arms of the ablation: a config, and the same with one mechanism switched off by ``--set`` overrides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdk.errors import UsageError
from trainer import config as configs
from trainer.config import AdversarialRecipe, Config, RenModel

FULL = "full"


@dataclass(frozen=True)
class Arm:
    """One variant of the base config.

    Attributes:
        name: as folders and tables give it.
        lacks: what is left out, in words.
        overrides: what switches it off, as for ``edge-train fit --set``.
        is_mechanism: whether exactly one mechanism is left out.
    """

    name: str
    lacks: str
    overrides: tuple[str, ...]
    is_mechanism: bool = True


@dataclass(frozen=True)
class Variant:
    """One training run to be: an arm under a seed."""

    arm: Arm
    seed: int
    config: Config

    @property
    def name(self) -> str:
        return f"{self.arm.name}-seed-{self.seed}"


def plan(path: Path, *, seeds: int) -> list[Variant]:
    """Every arm of the config at ``path`` under ``seeds`` seeds, from the config's own on; seed by seed.

    Raises:
        UsageError: the config is invalid, or it has nothing to ablate.
    """
    base = configs.load(path)
    return [
        Variant(arm, seed, configs.load(path, (*arm.overrides, f"seed={seed}")))
        for seed in range(base.seed, base.seed + seeds)
        for arm in arms(base, where=f"config {path}")
    ]


def arms(base: Config, *, where: str) -> tuple[Arm, ...]:
    """The arms of ``base``, the full one first.

    Without the purifier, and with a single classifier, none of the mechanisms is left: the plain network.

    Raises:
        UsageError: ``base`` is no adversarially trained REN with all three mechanisms; ``where`` heads it.
    """
    model = _checked(base, where)
    without_members = ("model.classifier.count=1", "loss.diversity=0")
    return (
        Arm(FULL, "nothing", (), is_mechanism=False),
        Arm("no-sparse-coding", "sparse coding", ("model.purifier.threshold=0",)),
        Arm(
            "no-random-encoding",
            "random encoding",
            ("model.purifier.count=1", f"model.purifier.atoms_kept={model.purifier.atoms}"),
        ),
        Arm("no-diverse-classifier", "the diverse classifier", without_members),
        Arm(
            "no-purifier",
            "the purifier and the diverse classifier",
            ("model.family=none", *without_members),
            is_mechanism=False,
        ),
    )


def _checked(base: Config, where: str) -> RenModel:
    family, kind = (part.__struct_config__.tag for part in (base.model, base.recipe))
    if not isinstance(base.model, RenModel):
        raise UsageError(
            f"{where}: model.family: expected 'ren', whose mechanisms are ablated, got {family!r}"
        )
    if not isinstance(base.recipe, AdversarialRecipe):
        raise UsageError(
            f"{where}: recipe.kind: expected 'adversarial', got {kind!r}: PGD would leave nothing to compare"
        )
    purifier, classifier = base.model.purifier, base.model.classifier
    missing = {
        "model.purifier.threshold: expected > 0": not purifier.threshold,
        "model.purifier.count, atoms_kept: expected count > 1 or atoms_kept < atoms": (
            purifier.count == 1 and purifier.atoms_kept == purifier.atoms
        ),
        "model.classifier.count: expected > 1": classifier.count == 1,
    }
    for expected, is_missing in missing.items():
        if is_missing:
            raise UsageError(f"{where}: {expected}: this mechanism is off already, so it can't be ablated")
    return base.model
