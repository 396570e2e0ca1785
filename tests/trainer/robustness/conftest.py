"""Digits, and networks trained on them once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.bundle.write import write_bundle
from tests.trainer.robustness.networks import LABELS, PLAIN, REN, fit, read_digits
from trainer import config as configs
from trainer.checkpoint import Loaded, finish
from trainer.data import Images
from trainer.models import Defence, build


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny networks lose more by handing work to threads than they gain."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> tuple[Images, Images]:
    """(training, test)."""
    images = read_digits()
    return images[:1400], images[1400:]


@pytest.fixture(scope="session")
def undefended(digits: tuple[Images, Images]) -> Defence:
    """Two classifiers without a purifier, trained on clean digits."""
    return fit(build(PLAIN), digits[0])


@pytest.fixture(scope="session")
def hardened(digits: tuple[Images, Images]) -> Defence:
    """The same, trained on attacked digits, so that about half of them survive an attack."""
    return fit(build(PLAIN), digits[0], eps=0.2)


@pytest.fixture(scope="session")
def ren(digits: tuple[Images, Images]) -> Defence:
    """A small clean-trained REN, rounded as checkpoints are."""
    defence = fit(build(REN), digits[0])
    finish(defence)
    return defence


@pytest.fixture(scope="session")
def ren_bundle(ren: Defence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, exported; shared, so never changed."""
    config = {"name": "ren-digits", "seed": 0, "model": configs.to_dict(REN), "recipe": {"kind": "clean"}}
    out = tmp_path_factory.mktemp("bundles") / "ren-digits"
    write_bundle(Loaded(ren, config, LABELS, {"config": config}), out)
    return out
