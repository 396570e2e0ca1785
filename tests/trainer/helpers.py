"""What tests of training read of a checkpoint, and a bundle that was never trained."""

from __future__ import annotations

from pathlib import Path

import torch

from export.bundle.write import write_bundle
from trainer import checkpoint
from trainer import config as configs
from trainer.data import CIFAR10_LABELS
from trainer.models import build


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(path)
    return {**state["model"], **{f"averaged.{name}": value for name, value in state["averaged"].items()}}


def write_untrained_bundle(out: Path, **data: object) -> Path:
    """A small REN for 32 x 32 pixels, whose ``data`` section says CIFAR-10 and what is given."""
    model = configs.RenModel(
        purifier=configs.RenPurifier(count=2, atoms=24, atoms_per_encoder=20, atoms_kept=22),
        classifier=configs.Classifier(count=2, widths=(8, 8, 8), blocks=1),
    )
    defence = build(model)
    checkpoint.finish(defence)
    config = {"name": "tiny", "model": configs.to_dict(model), "data": {"name": "cifar10", **data}}
    write_bundle(checkpoint.Loaded(defence, config, CIFAR10_LABELS, {"config": config}), out)
    return out
