"""A bundle that was never trained, and images of noise: enough for a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.trainer.helpers import write_untrained_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained REN for 32 x 32 pixels."""
    return write_untrained_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight test images of noise in CIFAR-10's layout."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (8, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    records.tofile(folder / "test_batch.bin")
    return folder.parent
