"""The two stages of training as configs that ``edge-train fit`` takes, and the sizes of the purifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.protect.request import Adapt, Family
from trainer import config as configs
from trainer.config import Config
from trainer.robustness.attacks.eot import bfloat16_is_fast

BLIND, ADVERSARIAL = "1-blind", "2-adversarial"
MAX_VALIDATION = 1000
VALIDATION_SHARE = 0.1
BATCH = 128
MAX_PROBED = 256  # validation pictures that are attacked after an epoch
PATCHES = range(4, 15)  # of a side, that MAEP is cut into
SMALLEST_PATCH = 4
TILE = 32  # the side of MAEP's tiles, where an image can't be cut into such patches as a whole
LABEL_SMOOTHING = 0.1
GUIDANCE = 0.3  # of MAEP's blind stage, which without it hardly undoes an attack


@dataclass(frozen=True)
class Setting:
    """What the stages have in common.

    Attributes:
        name: of the bundle.
        classifier: its file, which takes every engine's image: RGB in [0, 1].
        classes: the file with the class names.
        n_classes: of the classifier.
        image_size: height and width of its image.
        n_training: pictures to train on, validation included.
        family, adapt, eps, split, seed: see ``Request``.
    """

    name: str
    classifier: Path
    classes: Path
    n_classes: int
    image_size: tuple[int, int]
    n_training: int
    family: Family
    adapt: Adapt
    eps: float
    split: float
    seed: int

    @property
    def validation(self) -> int:
        """Pictures that are held out of training, for choosing."""
        return max(1, min(MAX_VALIDATION, int(VALIDATION_SHARE * self.n_training)))

    @property
    def probed(self) -> int:
        """Validation pictures that are attacked after an epoch: so few that it takes less than the epoch."""
        return min(self.validation, max(16, min(MAX_PROBED, self.n_training // 40)))

    @property
    def batch_size(self) -> int:
        return max(1, min(BATCH, (self.n_training - self.validation) // 2))


def default_family(adapt: Adapt) -> Family:
    """MAEP where the purifier must do it all: it has some fifteen times REN's arithmetic.

    With a classifier that learns too, REN: its steps are several times cheaper, and the classifier does most.
    """
    return "ren" if adapt == "classifier" else "maep"


def patch_of(height: int, width: int) -> int | None:
    """The side of MAEP's patches: the smallest that leaves few enough; None where none does."""
    sides = range(SMALLEST_PATCH, height // PATCHES.start + 1) if height == width else ()
    return next((side for side in sides if height % side == 0 and height // side in PATCHES), None)


def blind(setting: Setting, *, epochs: int, epoch_steps: int, bank: Path | None, save_every: int) -> Config:
    """The stage that learns to undo attacks on the classifier alone.

    Without a ``bank`` MAEP's attacks are made in every step, of few steps; REN's adversary is that of its
    code, and needs none.
    """
    if setting.family == "maep":
        recipe: dict[str, Any] = {"kind": "masked", "eps": setting.eps, "masking": [0.0, 0.5]}
        recipe |= {"attack_steps": 2} if bank is None else {"bank": str(bank)}
        loss = {"reconstruction": 1.0, "guidance": GUIDANCE}
        optimizer = {"kind": "adamw", "purifier_learning_rate": 1e-3}
    else:
        recipe = {"kind": "clean", "eps": setting.eps, "freeze_classifier": True}
        loss = {"reconstruction": 4.0, "code_stability": 0.05, "diversity": 0.0}
        optimizer = {"kind": "sgd", "purifier_learning_rate": 0.02}
    length = {"epochs": epochs, "epoch_steps": epoch_steps, "save_every": save_every}
    return _config(setting, BLIND, recipe, {**optimizer, **length}, loss)


def adversarial(
    setting: Setting, *, epochs: int, epoch_steps: int, purifier: Path, save_every: int
) -> Config:
    """The stage that meets attacks through purifier and classifier, from the purifier of the one before."""
    is_frozen = setting.adapt == "none"
    optimizer: dict[str, Any] = {"kind": "adamw", "purifier_learning_rate": 1e-3}
    recipe: dict[str, Any] = {"eps": setting.eps, "probe_images": setting.probed}
    if setting.family == "ren" and not is_frozen:
        recipe |= {"kind": "adversarial", "freeze_classifier": False, "pgd_tail": 0.1}
    else:
        recipe |= {"kind": "atop", "clean_share": 0.25, "freeze_classifier": is_frozen}
    if not is_frozen:
        optimizer["learning_rate"] = 1e-3
    loss = {"reconstruction": 0.25, "code_stability": 0.0, "diversity": 0.0}
    length = {"epochs": epochs, "epoch_steps": epoch_steps, "save_every": save_every}
    start = {"purifier": str(purifier)}
    return _config(setting, ADVERSARIAL, recipe, {**optimizer, **length}, loss, start=start)


def _config(
    setting: Setting,
    stage: str,
    recipe: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    loss: Mapping[str, Any],
    start: Mapping[str, Any] | None = None,
) -> Config:
    tree = {
        "name": setting.name if stage == ADVERSARIAL else f"{setting.name}-blind",
        "seed": setting.seed,
        "data": {
            "name": "folders",
            "classes": str(setting.classes),
            "train_share": setting.split,
            "validation": setting.validation,
            "crop_padding": min(setting.image_size) // 10,
            "flip": False,  # a mirrored arrow is another sign, a mirrored letter none
        },
        "model": {
            "family": setting.family,
            "n_classes": setting.n_classes,
            "image_size": setting.image_size,
            "purifier": _purifier(setting),
            "classifier": {"kind": "onnx", "file": str(setting.classifier), "count": 1},
        },
        "recipe": dict(recipe),
        "optimizer": {
            "batch_size": setting.batch_size,
            "precision": "bf16-mixed" if bfloat16_is_fast() else "32-true",
            "warmup": 0.1,
            "ema": 0.998,
            **optimizer,
        },
        "loss": {"label_smoothing": LABEL_SMOOTHING, "mask_ramp": [0.0, 0.3], **loss},
        **({"start": dict(start)} if start else {}),
    }
    return configs.from_dict(tree, where=f"stage {stage}")


def _purifier(setting: Setting) -> dict[str, Any]:
    if setting.family == "ren":
        return {"count": 4}
    patch = patch_of(*setting.image_size)
    return {"patch": SMALLEST_PATCH, "tile": TILE} if patch is None else {"patch": patch}


def to_toml(config: Config) -> str:
    """The config as the file that ``edge-train fit`` reads."""
    tree = configs.to_dict(config)
    lines: list[str] = []
    _table(tree, (), lines)
    return "\n".join(lines).strip() + "\n"


def _table(tree: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    """Append the keys of ``tree``, then its sections; what is None is left out."""
    if path:
        lines += ["", f"[{'.'.join(path)}]"]
    lines += [
        f"{key} = {_value(value)}"
        for key, value in tree.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            _table(value, (*path, key), lines)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        escaped = "".join(f"\\u{ord(each):04x}" if ord(each) < 32 else each for each in escaped)
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)
