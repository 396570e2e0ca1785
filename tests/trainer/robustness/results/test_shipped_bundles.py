"""Bundles that ship are held to the record inside them: same images, perturbations and draws, paired.

The images are CIFAR-10's, in the folder that ``$EDGE_PURIFY_DATA`` names, or in ``data/`` of the checkout.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import sdk
from sdk.bundle import Bundle
from sdk.errors import GateError, UsageError
from tests.export.spoil import break_engine
from trainer.data import DataError, Images, open_dataset
from trainer.robustness.defences.targets import open_target
from trainer.robustness.results import gate, record

CHECKOUT = Path(sdk.__file__).parents[1]
BUNDLES = sorted(path for place in ("sdk", "samples") for path in (CHECKOUT / place / "bundles").iterdir())
RECORDED = [folder for folder in BUNDLES if Bundle.open(folder).manifest.robustness]
CASES = [
    (folder, precision)
    for folder in RECORDED
    for precision in record.read(folder / Bundle.open(folder).manifest.robustness.file).chances
]


@pytest.fixture(scope="module")
def images() -> Images:
    folder = Path(os.environ.get("EDGE_PURIFY_DATA") or Path(__file__).parents[4] / "data")
    try:
        return open_dataset("cifar10", folder, "test", image_size=32)
    except DataError as error:
        pytest.skip(f"no CIFAR-10: {error}; or set EDGE_PURIFY_DATA")


def hold(folder: Path, precision: str, images: Images) -> list[gate.Change]:
    with open_target(folder, backend="onnxruntime", precision=precision) as target:
        where = target.bundle.path(target.bundle.manifest.robustness)
        try:
            return gate.hold(record.read(where), target, images, where=where.name)
        except UsageError as error:
            pytest.skip(f"another copy of CIFAR-10 than the one on record: {error}")


def test_every_shipped_bundle_has_a_record() -> None:
    assert RECORDED == BUNDLES


@pytest.mark.parametrize(("folder", "precision"), CASES, ids=lambda value: getattr(value, "name", value))
def test_keeps_what_it_kept(folder: Path, precision: str, images: Images) -> None:
    changes = hold(folder, precision, images)
    assert {"clean", "pgd"} <= {change.rung for change in changes}
    assert all(change.points >= -1 for change in changes)


@pytest.mark.parametrize(("folder", "precision"), CASES, ids=lambda value: getattr(value, "name", value))
def test_a_broken_engine_is_refused(folder: Path, precision: str, images: Images, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / folder.name))
    break_engine(broken, "classifier-01", precision)
    with pytest.raises(GateError, match=rf"{precision}: recognizes fewer images .* in points: clean -"):
        hold(broken, precision, images)
