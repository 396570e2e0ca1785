"""What ``write_bundle`` leaves on disk, when it succeeds and when it fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from export.bundle import write as writer
from export.bundle.staging import staged
from export.bundle.write import write_bundle
from export.torch_to_onnx import ExportError
from sdk.bundle import MANIFEST, Bundle, default_bundle
from sdk.errors import GateError, UsageError
from tests.export.conftest import CONFIG, save_untrained
from tests.export.helpers import names_in, tree
from tests.export.spoil import break_engine
from trainer import checkpoint

LIMIT_BYTES = 48_000_000  # of one bundle that ships inside the package


def test_the_bundle_is_whole_and_says_where_it_comes_from(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert sorted(tree(bundle.folder)) == sorted([MANIFEST, *(file.file for file in manifest.files())])
    assert bundle.labels == ("cat", "dog", "ship", "truck")
    assert (manifest.name, manifest.family, manifest.image.height) == ("tiny", "ren", 16)
    assert [(spec.name, spec.size, spec.take) for spec in manifest.purifiers[0].random_inputs] == [
        ("atom_mask", 24, 18)
    ]
    assert manifest.provenance["validation_accuracy"] == 0.25
    assert manifest.provenance["export"]["opset"] == 18


def test_the_card_is_honest(bundle: Bundle) -> None:
    assert bundle.manifest.card is not None
    card = bundle.path(bundle.manifest.card).read_text(encoding="utf-8")
    for claim in (
        "reconstruction from the abstract",
        "Clean accuracy of these engines: not measured yet",
        "Robustness ladder: not measured yet",
        "expected to fall to adaptive attacks",
        "validation accuracy: 0.25",
        "18 out of 24",
    ):
        assert claim in card


@pytest.mark.usefixtures("ready")
def test_writing_again_gives_the_same_bytes(loaded: Any, exported: Path, tmp_path: Path) -> None:
    write_bundle(loaded, tmp_path / "again", n_images=1)
    assert tree(tmp_path / "again") == tree(exported)


@pytest.mark.usefixtures("ready")
def test_others_may_read_the_folder_as_the_umask_says(loaded: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    write_bundle(loaded, tmp_path / "bundle", n_images=1)
    assert (tmp_path / "bundle").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), GateError("off"), RuntimeError("bug")])
@pytest.mark.parametrize("step", ["purifier-01", "verify fp32"])
@pytest.mark.usefixtures("ready")
def test_a_failure_at_any_step_leaves_nothing(
    loaded: Any, tmp_path: Path, failure: BaseException, step: str
) -> None:
    def fail(begun: str) -> None:
        if begun == step:
            assert names_in(tmp_path)  # something is being written there
            raise failure

    with pytest.raises(type(failure)):
        write_bundle(loaded, tmp_path / "bundle", on_step=fail)
    assert names_in(tmp_path) == []


@pytest.mark.usefixtures("ready")
def test_a_broken_engine_is_never_published(
    loaded: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_engine(folder, "classifier-01")
    monkeypatch.setattr(
        writer, "engine_bytes", lambda *_, output, name: (folder / f"onnx/{name}.fp32.onnx").read_bytes()
    )
    with pytest.raises(GateError, match=r"^classifier-01: "):
        write_bundle(loaded, tmp_path / "out", n_images=2)
    assert names_in(tmp_path) == ["tiny"]


@pytest.mark.usefixtures("ready")
def test_force_replaces_a_bundle_and_a_failed_replacement_keeps_it(loaded: Any, folder: Path) -> None:
    def fail(step: str) -> None:
        if step == "verify fp32":
            raise GateError("off")

    before = tree(folder)
    with pytest.raises(GateError):
        write_bundle(loaded, folder, name="other", force=True, on_step=fail)
    assert tree(folder) == before
    write_bundle(loaded, folder, name="other", force=True, n_images=1)
    assert Bundle.open(folder).manifest.name == "other"
    assert names_in(folder.parent) == [folder.name]


@pytest.mark.usefixtures("ready")
def test_a_replacement_that_cannot_be_put_in_place_gives_the_old_bundle_back(
    loaded: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, before = Path.rename, tree(folder)

    def refuse_the_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new)
    with pytest.raises(ExportError, match="can't be written: No space left on device"):
        write_bundle(loaded, folder, force=True, n_images=1)
    assert tree(folder) == before
    assert names_in(folder.parent) == [folder.name]


def test_ctrl_c_between_the_two_renames_gives_the_old_bundle_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, before = Path.rename, tree(folder)

    def interrupted(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if self == folder:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), staged(folder, force=True):
        pass
    assert tree(folder) == before
    assert names_in(folder.parent) == [folder.name]


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="needs /proc, a mount point")
def test_a_mount_point_is_refused_before_the_work() -> None:
    with (
        pytest.raises(UsageError, match=r"^/proc: it is a mount point, .* mount the folder above it, or"),
        staged(Path("/proc"), force=True),
    ):
        pytest.fail("the work began")


@pytest.mark.parametrize(
    ("out", "force", "complaint"),
    [
        ("tiny", False, "a bundle is there already; replace it with --force"),
        ("holiday", True, "holds other things than a bundle"),
        ("holiday/photo.jpg", True, "it is a file"),
        ("absent/bundle", False, r"absent doesn't exist; create it first"),
    ],
)
def test_a_place_that_cannot_take_a_bundle_is_refused_untouched(
    loaded: Any, folder: Path, out: str, force: bool, complaint: str
) -> None:
    parent = folder.parent
    (parent / "holiday").mkdir()
    (parent / "holiday" / "photo.jpg").write_bytes(b"photo")
    before = tree(parent)
    with pytest.raises(UsageError, match=complaint):
        write_bundle(loaded, parent / out, force=force)
    assert tree(parent) == before


def test_a_classifier_without_a_purifier_is_refused(tmp_path: Path) -> None:
    model = {key: value for key, value in CONFIG["model"].items() if key != "purifier"}
    plain = {**CONFIG, "model": {**model, "family": "none"}, "recipe": {"kind": "adversarial"}}
    loaded = checkpoint.load_defence(save_untrained(plain, tmp_path / "plain.pt"))
    with pytest.raises(
        UsageError, match=r"expected model\.family ren or maep, got none: .* --against CHECKPOINT"
    ):
        write_bundle(loaded, tmp_path / "bundle")
    assert names_in(tmp_path) == ["plain.pt"]


@pytest.mark.usefixtures("ready")
def test_an_empty_folder_may_become_a_bundle(loaded: Any, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    write_bundle(loaded, tmp_path / "bundle", n_images=1)
    assert Bundle.open(tmp_path / "bundle").manifest.name == "tiny"


def test_a_classifier_of_ones_own_may_be_of_any_size(tmp_path: Path) -> None:
    """Only bundles that ship in the package have a limit."""
    classifier = {"kind": "module", "count": 1, "factory": "tests.export.bundle.large_classifier:build"}
    config = {**CONFIG, "model": {**CONFIG["model"], "classifier": classifier}}
    path = save_untrained(config, tmp_path / "large.pt")
    write_bundle(checkpoint.load_defence(path, trust_code=True), tmp_path / "bundle", n_images=1)
    assert sum(len(content) for content in tree(tmp_path / "bundle").values()) > 40_000_000


def test_what_ships_in_the_package_stays_small() -> None:
    for folder in default_bundle().parent.iterdir():
        size_bytes = sum(len(content) for content in tree(folder).values())
        assert size_bytes <= LIMIT_BYTES, f"{folder.name}: {size_bytes:,} bytes"
