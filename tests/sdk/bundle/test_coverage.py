"""Every file of a bundle's folder is shown, with what the manifest's hashes say of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sdk.bundle import MANIFEST, SIGNATURE, Bundle, File, sha256_of, write_manifest
from sdk.errors import BundleError


def shown(folder: Path) -> dict[str, str]:
    return {entry.file: entry.coverage for entry in Bundle.open(folder).coverage()}


def test_a_sound_bundle_is_covered_whole(bundle_copy: Path) -> None:
    entries = Bundle.open(bundle_copy).coverage()
    assert {entry.coverage for entry in entries} == {"manifest", "listed"}
    assert all(entry.is_covered for entry in entries)
    assert [entry.file for entry in entries] == sorted(
        path.relative_to(bundle_copy).as_posix() for path in bundle_copy.rglob("*") if path.is_file()
    )
    assert all(entry.size_bytes == (bundle_copy / entry.file).stat().st_size for entry in entries)


def test_what_nothing_vouches_for_is_named(bundle_copy: Path, tmp_path: Path) -> None:
    (bundle_copy / "engines").mkdir()
    (bundle_copy / "engines" / "purifier-00.plan").write_bytes(b"code")
    (bundle_copy / "onnx" / "weights.bin").write_bytes(b"other weights")
    (bundle_copy / SIGNATURE).write_bytes(bytes(64))
    (bundle_copy / "link").symlink_to(tmp_path)  # a folder elsewhere isn't walked
    found = shown(bundle_copy)
    assert found["engines/purifier-00.plan"] == "not covered"
    assert found["onnx/weights.bin"] == "not covered"
    assert found["link"] == "not covered"
    assert found[SIGNATURE] == "signature"
    assert found[MANIFEST] == "manifest"


def test_what_changed_or_vanished_after_opening_is_named(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    (bundle_copy / "labels.txt").write_text("cat\n")
    (bundle_copy / "onnx/classifier-00.onnx").unlink()
    found = {entry.file: entry for entry in bundle.coverage()}
    assert found["labels.txt"].coverage == "changed"
    assert found["onnx/classifier-00.onnx"].coverage == "missing"
    assert not found["labels.txt"].is_covered


def test_a_listed_plan_is_covered_and_may_be_absent(bundle_copy: Path) -> None:
    plan = bundle_copy / "engines" / "purifier-00.plan"
    plan.parent.mkdir()
    plan.write_bytes(b"built")
    file = File("engines/purifier-00.plan", sha256_of(plan))
    write_manifest(bundle_copy, msgspec.structs.replace(Bundle.open(bundle_copy).manifest, plans=(file,)))
    bundle = Bundle.open(bundle_copy)
    assert shown(bundle_copy)[file.file] == "listed"
    assert bundle.listed(file.file) == file
    assert bundle.listed("engines/other.plan") is None
    assert bundle.read(file) == b"built"
    plan.write_bytes(b"swapped")
    with pytest.raises(BundleError, match=r"purifier-00\.plan is damaged or changed"):
        bundle.read(file)
    plan.unlink()
    assert shown(bundle_copy)[file.file] == "missing", "and the bundle still opens: plans are derived"
