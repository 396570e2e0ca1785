"""A bundle that was never trained, and images of noise: enough for a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.bundle.write import write_bundle
from trainer import config as configs
from trainer.checkpoint import Loaded, finish
from trainer.data import CIFAR10_LABELS
from trainer.models import build


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained REN for 32 x 32 pixels."""
    model = configs.RenModel(
        purifier=configs.RenPurifier(count=2, atoms=24, atoms_per_encoder=20, atoms_kept=22),
        classifier=configs.Classifier(count=2, widths=(8, 8, 8), blocks=1),
    )
    defence = build(model)
    finish(defence)
    config = {"name": "tiny", "model": configs.to_dict(model), "data": {"name": "cifar10"}}
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    write_bundle(Loaded(defence, config, CIFAR10_LABELS, {"config": config}), out)
    return out


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight test images of noise in CIFAR-10's layout."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (8, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    records.tofile(folder / "test_batch.bin")
    return folder.parent
