"""Real digits as a training set, and configs small enough to train in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import trainer
from trainer import config as configs
from trainer.config import Config
from trainer.data import Images

CONFIGS = Path(trainer.__file__).parent / "configs"
SMALL = (
    "optimizer.epochs=2",
    "optimizer.batch_size=64",
    "optimizer.precision=32-true",
    "optimizer.learning_rate=0.2",
    "model.image_size=16",
    "model.classifier.widths=[8,12,16]",
    "model.classifier.blocks=1",
    "data.crop_padding=1",
    "data.flip=false",
)
SMALL_REN = (
    "model.purifier.count=3",
    "model.purifier.atoms=48",
    "model.purifier.atoms_per_encoder=40",
    "model.purifier.atoms_kept=43",
)


@pytest.fixture(scope="session")
def digits() -> Images:
    """1,797 handwritten digits as 16x16 RGB images."""
    return read_digits()


def read_digits() -> Images:
    """The digits, also for a process that is not pytest's."""
    raw = load_digits()
    pixels = torch.from_numpy(raw.images).float()[:, None].expand(-1, 3, -1, -1) / 16
    larger = F.interpolate(pixels, size=(16, 16), mode="bilinear").mul(255).round().byte()
    return Images(larger, torch.from_numpy(raw.target), tuple("0123456789"))


def small(name: str, *overrides: Any) -> Config:
    """A shipped config, cut down to digits and seconds."""
    family = SMALL_REN if name.startswith("ren") else ()
    probe = ("recipe.probe_images=64",) if name.endswith("-at") else ()
    return configs.load(CONFIGS / f"{name}.toml", (*SMALL, *family, *probe, *overrides))
