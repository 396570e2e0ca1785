"""Real digits as a training set, and configs small enough to train in seconds."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import trainer
from trainer import checkpoint
from trainer import config as configs
from trainer.config import Config, tomllib
from trainer.config.overrides import override
from trainer.data import Images
from trainer.data import attack_bank as banks
from trainer.loop.fit import fit

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
SMALL_MAEP = (
    "model.purifier.width=32",
    "model.purifier.encoder_blocks=2",
    "model.purifier.decoder_blocks=1",
    "model.purifier.heads=2",
    "optimizer.purifier_learning_rate=4e-3",
)
SMALL_WRN = ("model.classifier.kind=edge", "model.classifier.count=2")  # what MAEP's edge configs defend

#: A config's name to the overrides that it starts by, and its training and validation images.
Prepare = Callable[[str], tuple[tuple[str, ...], Images, Images]]


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


@contextmanager
def full_disk() -> Iterator[None]:
    """As on a disk that is full, the system refuses to write: here, beyond a thousand bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def small(name: str, *overrides: Any) -> Config:
    """A shipped config, cut down to digits and seconds."""
    families = {"ren": SMALL_REN, "maep": SMALL_MAEP, "wrn": SMALL_WRN}
    family = families.get(name.partition("-")[0], ())
    probe = ("recipe.probe_images=64",) if name.endswith(("-at", "-atop")) else ()
    path = CONFIGS / f"{name}.toml"
    if name != "ren-cifar10-edge-at":
        return configs.load(path, (*SMALL, *family, *probe, *overrides))
    tree = tomllib.loads(path.read_text(encoding="utf-8"))  # this one starts from another run, not here
    del tree["start"], tree["recipe"]["soft_targets"]
    override(tree, (*SMALL, *family, *probe, *overrides))
    return configs.from_dict(tree, where=str(path))


@pytest.fixture(scope="session")
def prepare(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    """What a config begins with: MAEP's has a trained classifier, a bank, and the stage before it."""
    runs = tmp_path_factory.mktemp("ancestors")

    @cache
    def trained(name: str) -> Path:
        overrides, training, validation = prepared(name)
        epochs = 12 if name == "wrn-28-10-cifar10" else 4
        config = small(name, f"optimizer.epochs={epochs}", *overrides)
        return fit(config, training, validation, runs / name)

    @cache
    def bank() -> Path:
        classifier = checkpoint.load_defence(trained("wrn-28-10-cifar10")).defence
        banks.make(classifier, digits, eps=0.04, steps=5).save(runs / "bank.npz")
        return runs / "bank.npz"

    def prepared(name: str) -> tuple[tuple[str, ...], Images, Images]:
        if not name.startswith("maep"):
            return (), digits[:1200], digits[1200:]
        overrides = ["recipe.eps=0.04", "loss.label_smoothing=0"]  # so that there is something to learn
        overrides.append(f"start.classifier={trained('wrn-28-10-cifar10')}")
        if name != "maep-cifar10-edge":
            overrides.append(f"start.purifier={trained('maep-cifar10-edge')}")
        if not name.endswith("atop"):
            overrides.append(f"recipe.bank={bank()}")
        return tuple(overrides), *banks.split_for(small(name, *overrides).recipe, digits, 597)

    return prepared
