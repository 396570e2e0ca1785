"""Golden outputs: small, complete, replayed without torch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from export.bundle.add_precisions import without_stale_figures
from export.bundle.goldens import add_goldens
from export.bundle.write import make_golden
from sdk.backends import open_backend
from sdk.backends.golden import Golden, replay
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import Bundle
from sdk.bundle.deviation import BOUND, BOUNDS, Bound
from sdk.errors import BundleError
from tests.export.spoil import rehash


def test_golden_draws_use_every_engine_and_say_every_input(bundle: Bundle) -> None:
    golden = Golden.load(bundle)
    assert set(golden.purifier.tolist()) == {0, 1, 2}
    assert set(golden.classifier.tolist()) == {0, 1}
    assert golden.images.shape == (2, 3, 16, 16)
    assert golden.images.dtype == np.uint8
    assert golden.purified.shape == (8, 3 * 16 * 16)
    assert golden.logits.shape == (8, 4)
    mask = golden.random_inputs["atom_mask"]
    assert mask.shape == (8, 24)
    assert set(mask.sum(axis=1)) == {18}


def test_the_runtime_replays_them(bundle: Bundle) -> None:
    backend = open_backend(bundle, "onnxruntime", "fp32")
    found = replay(bundle, backend, Golden.load(bundle))
    assert sorted(d.engine for d in found) == [
        "classifier-00",
        "classifier-01",
        *(f"purifier-0{i}" for i in range(3)),
    ]
    assert max(d.max_abs for d in found) <= BOUND
    assert sum(d.n_draws for d in found if "purifier" in d.engine) == 8


def test_images_and_draws_really_matter_to_them(bundle: Bundle) -> None:
    golden = Golden.load(bundle)
    another_image, another_mask = ((golden.logits, 4), (golden.purified, 3))
    for outputs, n in (another_image, another_mask):
        assert np.abs(outputs[0] - outputs[n]).max() > 100 * BOUND


@pytest.mark.parametrize("size", [32, 224])
def test_they_are_small_at_any_image_size(loaded: Any, tmp_path: Path, size: int) -> None:
    path = tmp_path / "golden.npz"
    make_golden(loaded.defence, size, size).save(path)
    assert path.stat().st_size < 300_000


def without(name: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with np.load(path) as stored:
            arrays = {key: value for key, value in stored.items() if key != name}
        np.savez(path, **arrays)

    return spoil


def never_drawing_purifier_2(path: Path) -> None:
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **{**arrays, "purifier": arrays["purifier"] % 2})


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda path: path.write_bytes(b"not a zip"), "can't be read as golden outputs"),
        (without("logits"), r"can't be read as golden outputs: .*logits"),
        (
            never_drawing_purifier_2,
            r"golden draws of all 3 purifiers and no other, got it wrong for number 2",
        ),
    ],
)
def test_golden_outputs_that_cannot_serve_are_one_clear_line(
    folder: Path, spoil: Callable[[Path], Any], complaint: str
) -> None:
    spoil(folder / "golden.npz")
    rehash(folder)
    with pytest.raises(BundleError, match=complaint) as caught:
        Golden.load(Bundle.open(folder))
    assert re.search(r"golden\.npz: .*; export the bundle again$", str(caught.value))


def test_engines_beyond_fp32s_bounds_are_held_to_their_own_golden_outputs(
    lowered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As INT8 engines that were calibrated on other pictures than the golden images."""
    folder = Path(shutil.copytree(lowered, tmp_path / "bundle"))
    strict = {key: Bound(1e-9, 1e-9, 1.0) if key[0] == "int8" else bound for key, bound in BOUNDS.items()}
    monkeypatch.setattr("sdk.bundle.deviation.BOUNDS", strict)
    add_goldens(Bundle.open(folder), ("fp16", "int8"))
    bundle = Bundle.open(folder)
    assert set(bundle.manifest.goldens) == {"int8", "int8.cpu"}
    assert bundle.manifest.golden_of("fp16", "gpu") == bundle.manifest.golden_of("fp32", "cpu")
    assert {*bundle.manifest.goldens.values()} <= {*bundle.manifest.files()}
    for kind in ("gpu", "cpu"):
        with closing(OnnxRuntimeBackend(bundle, "int8", graphs=kind)) as backend:
            assert not any(off.complaint for off in replay(bundle, backend, Golden.load(bundle, backend)))
            assert any(off.complaint for off in replay(bundle, backend, Golden.load(bundle)))


def test_precisions_made_anew_lose_the_golden_outputs_of_the_old(lowered: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(lowered, tmp_path / "bundle"))
    bundle = Bundle.open(folder)
    stale = msgspec.structs.replace(bundle.manifest, goldens={"int8": bundle.manifest.golden})
    other = msgspec.structs.replace(stale.classifiers[0], cpu={})
    after = msgspec.structs.replace(stale, classifiers=(other, *stale.classifiers[1:]))
    assert without_stale_figures(stale, after).goldens == {}
    assert without_stale_figures(stale, stale).goldens == stale.goldens
