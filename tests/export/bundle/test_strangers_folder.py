"""Commands that write into a bundle's folder: no link in it and no file swapped meanwhile misleads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from export.bundle.staging import copy_bundle
from export.signing import sign
from sdk.bundle import SIGNATURE, Bundle, sha256_of
from sdk.errors import BundleError
from tests.export.cli.helpers import run
from tests.export.spoil import edit_manifest
from tests.sdk.keys import make_keys
from trainer.robustness.results.publish import calibrate_bundle


def test_a_signature_is_not_written_through_a_link(bundle_copy: Path, tmp_path: Path) -> None:
    keys, own = make_keys(tmp_path / "keys"), tmp_path / "authorized_keys"
    own.write_text("mine")
    (bundle_copy / SIGNATURE).symlink_to(own)
    sign(bundle_copy, keys.private)
    assert own.read_text() == "mine"
    assert Bundle.open(bundle_copy, public_key=keys.public).signed_by


def test_a_copy_holds_no_link_and_waits_for_no_pipe(bundle_copy: Path, tmp_path: Path) -> None:
    own = tmp_path / "private.txt"
    own.write_text("mine")
    (bundle_copy / "README").write_text("kept")
    (bundle_copy / "link").symlink_to(own)
    (bundle_copy / "all").symlink_to(tmp_path)
    (bundle_copy / "endless").symlink_to("/dev/zero")
    os.mkfifo(bundle_copy / "pipe")
    new = tmp_path / "new"
    new.mkdir()
    copy_bundle(Bundle.open(bundle_copy), new)
    assert {path.name for path in new.iterdir()} == {path.name for path in bundle_copy.iterdir()} - {
        "link",
        "all",
        "endless",
        "pipe",
    }
    assert Bundle.open(new).digest == Bundle.open(bundle_copy).digest


def test_a_copy_has_the_bytes_that_were_verified(bundle_copy: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    (bundle_copy / "onnx" / "purifier-00.onnx").write_bytes(b"swapped")
    (tmp_path / "new").mkdir()
    with pytest.raises(BundleError, match=r"purifier-00\.onnx is damaged or changed"):
        copy_bundle(bundle, tmp_path / "new")


@pytest.mark.parametrize("id", ["../../../outside", "/tmp/outside", "a/../../b"])
def test_an_engines_id_leads_to_no_other_folder(folder: Path, id: str) -> None:
    before = sorted(folder.parent.rglob("*"))

    def rename(tree: dict[str, list[dict[str, str]]]) -> None:
        tree["purifiers"][0]["id"] = id

    edit_manifest(folder, rename)
    run("precision", folder, "--precision", "fp16", "--images", 2)
    outside = {path for path in folder.parent.rglob("*") if folder not in path.parents} - {*before}
    assert not outside
    assert not Path("/tmp/outside.fp16.onnx").exists()


def test_a_card_that_was_swapped_meanwhile_is_not_vouched_for(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.manifest.card is not None
    bundle.path(bundle.manifest.card).write_text("an attacker's words")
    with pytest.raises(BundleError, match="is damaged or changed"):
        calibrate_bundle(bundle, 1.5, "calibrated")
    assert sha256_of(folder / "bundle.json") == bundle.digest, "the manifest is as it was"


def test_a_card_behind_a_link_is_neither_read_nor_written(folder: Path, tmp_path: Path) -> None:
    bundle, own = Bundle.open(folder), tmp_path / "own.md"
    assert bundle.manifest.card is not None
    card = bundle.path(bundle.manifest.card)
    own.write_bytes(before := card.read_bytes())
    card.unlink()
    card.symlink_to(own)
    with pytest.raises(BundleError, match="leads outside"):
        calibrate_bundle(bundle, 1.5, "calibrated")
    assert own.read_bytes() == before
