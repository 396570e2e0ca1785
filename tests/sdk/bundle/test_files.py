"""Bundles: what opens, and that each kind of damage is one error which names the place and the mend."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdk.bundle import MANIFEST, Bundle, default_bundle, sha256_of
from sdk.errors import BundleError

Edit = Callable[[dict[str, Any]], None]


def test_opens_a_sound_bundle(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.labels == ("red", "green", "blue", "dark")
    assert [engine.id for engine in bundle.manifest.purifiers] == [
        "purifier-00",
        "purifier-01",
        "purifier-02",
    ]
    assert bundle.path(bundle.manifest.golden).is_file()
    assert bundle.digest == sha256_of(tiny_bundle / MANIFEST)


def test_opens_by_a_relative_path(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_bundle.parent)
    assert Bundle.open("tiny").folder == tiny_bundle


def test_default_bundle_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_PURIFY_BUNDLE", "/elsewhere")
    assert default_bundle() == Path("/elsewhere")
    monkeypatch.delenv("EDGE_PURIFY_BUNDLE")
    assert default_bundle().parent.name == "bundles"


def test_one_changed_byte_in_any_listed_file_is_found(bundle_copy: Path) -> None:
    names = [file.file for file in Bundle.open(bundle_copy).manifest.files()]
    assert len(names) == 7
    for name in names:
        path = bundle_copy / name
        sound = path.read_bytes()
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(BundleError, match=re.escape(name) + " is damaged or changed: expected sha256"):
            Bundle.open(bundle_copy)
        path.write_bytes(sound)
    Bundle.open(bundle_copy)


def test_a_missing_file_is_named(bundle_copy: Path) -> None:
    (bundle_copy / "onnx/classifier-01.onnx").unlink()
    with pytest.raises(BundleError, match=r"'onnx/classifier-01.onnx' is missing; copy the bundle again"):
        Bundle.open(bundle_copy)


def test_a_link_out_of_the_folder_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    labels = bundle_copy / "labels.txt"
    outside = labels.rename(tmp_path / "labels.txt")  # the same bytes, so only the place is wrong
    labels.symlink_to(outside)
    with pytest.raises(BundleError, match=r"'labels.txt' leads outside the folder"):
        Bundle.open(bundle_copy)


def test_a_loop_of_links_is_one_line(bundle_copy: Path) -> None:
    labels = bundle_copy / "labels.txt"
    labels.unlink()
    labels.symlink_to(labels)
    with pytest.raises(BundleError, match=r"'labels.txt' (can't be read|is missing)"):
        Bundle.open(bundle_copy)


def _set(*keys: Any, to: Any) -> Edit:
    def edit(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = to

    return edit


def _same_ids(manifest: dict[str, Any]) -> None:
    manifest["purifiers"][1]["id"] = manifest["purifiers"][0]["id"]


def _classifier_with_mask(manifest: dict[str, Any]) -> None:
    manifest["classifiers"][0]["random_inputs"] = manifest["purifiers"][0]["random_inputs"]


def _mask_twice(manifest: dict[str, Any]) -> None:
    manifest["purifiers"][0]["random_inputs"] *= 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("schema", to=2), "expected schema 1, got 2; update edge-purify"),
        (_set("schema", to=0), "expected schema 1, got 0; export the bundle again"),
        (_set("schema", to="1"), r"Expected `int`, got `str` - at `\$.schema`"),
        (_set("image", "height", to="tall"), r"Expected `int`, got `str` - at `\$.image.height`"),
        (_set("image", "height", to=0), r"expected a height and width >= 1, got 0 x 16 - at `\$.image`"),
        (_set("imaeg", to={}), "unknown field `imaeg`"),
        (_set("family", to="vae"), r"Invalid enum value 'vae' - at `\$.family`"),
        (_set("purifiers", to=[]), "purifiers: expected at least one, got none"),
        (_set("purifiers", 0, "onnx", to={}), "'purifier-00': expected an fp32 ONNX file"),
        (_set("purifiers", 0, "random_inputs", 0, "take", to=13), "expected 1 <= take <= size = 12, got 13"),
        (_set("purifiers", 0, "random_inputs", 0, "take", to=0), "expected 1 <= take <= size = 12, got 0"),
        (_set("purifiers", 0, "random_inputs", 0, "shape", to=[12]), r"expected shape \[1, 12\], got \[12\]"),
        (_same_ids, "purifiers: expected distinct ids, got "),
        (_classifier_with_mask, "classifier 'classifier-00': expected no random inputs"),
        (_mask_twice, "'purifier-00': expected distinct input names, got "),
        (_set("labels", "file", to="../labels.txt"), "'../labels.txt' leads outside the folder"),
        (_set("labels", "file", to="onnx/../../x"), "'onnx/../../x' leads outside the folder"),
        (_set("labels", "file", to="/etc/hostname"), "'/etc/hostname' leads outside the folder"),
        (_set("labels", "file", to="a\0b"), "can't be read|is missing"),
        (_set("labels", "file", to="onnx"), "'onnx' is missing"),
    ],
)
def test_a_wrong_manifest_names_the_field(bundle_copy: Path, edit: Edit, message: str) -> None:
    path = bundle_copy / MANIFEST
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(bundle_copy)
    assert "\n" not in str(caught.value)
    assert str(bundle_copy) in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff", b'{"schema": 1, "name": "\xff"}', b"[" * 100_000, b'{"schema": 1}', b"[]"],
    ids=["empty", "cut short", "no text", "no UTF-8", "nested", "no fields", "no object"],
)
def test_a_damaged_manifest_is_one_line(bundle_copy: Path, raw: bytes) -> None:
    (bundle_copy / MANIFEST).write_bytes(raw)
    with pytest.raises(BundleError, match="export the bundle again") as caught:
        Bundle.open(bundle_copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"red\n\nblue\ndark\n", b"\xff\xfe"], ids=["empty", "gap", "no UTF-8"])
def test_labels_are_one_a_line(bundle_copy: Path, text: bytes) -> None:
    labels, manifest = bundle_copy / "labels.txt", bundle_copy / MANIFEST
    before = sha256_of(labels)
    labels.write_bytes(text)
    manifest.write_text(manifest.read_text().replace(before, sha256_of(labels)))
    with pytest.raises(BundleError, match=r"labels.txt: expected .*one label a line"):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("absent", "no such folder"),
        ("empty", f"no {MANIFEST} in it"),
        ("file", f"{MANIFEST} can't be read"),
        ("nul\0", f"{MANIFEST} can't be read"),
    ],
)
def test_no_bundle_there(tmp_path: Path, folder: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / folder)


def test_read_gives_the_bytes_that_were_hashed(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    for file in bundle.manifest.files():
        assert bundle.read(file) == (bundle_copy / file.file).read_bytes()


def test_read_refuses_a_file_that_was_replaced_after_open(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    first, second = (engine.onnx["fp32"] for engine in bundle.manifest.purifiers[:2])
    (bundle_copy / second.file).replace(bundle_copy / first.file)
    with pytest.raises(BundleError, match=re.escape(first.file) + " is damaged or changed"):
        bundle.read(first)
    with pytest.raises(BundleError, match=r"is missing; copy the bundle again"):
        bundle.read(second)


def test_a_pipe_in_place_of_a_file_neither_blocks_nor_opens(bundle_copy: Path) -> None:
    name = Bundle.open(bundle_copy).manifest.golden.file
    (bundle_copy / name).unlink()
    os.mkfifo(bundle_copy / name)
    with pytest.raises(BundleError, match=r"golden.npz' can't be read: it is a device or a pipe"):
        Bundle.open(bundle_copy)


def test_a_huge_file_is_refused_before_it_is_read(bundle_copy: Path) -> None:
    with (bundle_copy / "labels.txt").open("r+b") as stream:
        stream.truncate(1 << 40)  # sparse: it takes no room on disk
    with pytest.raises(BundleError, match=r"'labels.txt' can't be read: expected at most [\d,]+ bytes"):
        Bundle.open(bundle_copy)
    with (bundle_copy / MANIFEST).open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(BundleError, match=f"{MANIFEST} can't be read: expected at most"):
        Bundle.open(bundle_copy)


def write_labels(folder: Path, text: bytes) -> None:
    labels, manifest = folder / "labels.txt", folder / MANIFEST
    before = sha256_of(labels)
    labels.write_bytes(text)
    manifest.write_text(manifest.read_text().replace(before, sha256_of(labels)))


def test_labels_are_separated_by_line_feeds_alone(bundle_copy: Path) -> None:
    write_labels(bundle_copy, "\ufeffred\r\ncrane\ncrane\nnext\x85line\u2028\n".encode())
    assert Bundle.open(bundle_copy).labels == ("red", "crane", "crane", "next\x85line")


def test_an_empty_label_is_named_by_its_line(bundle_copy: Path) -> None:
    write_labels(bundle_copy, b"red\ngreen\n \ndark\n")
    with pytest.raises(BundleError, match=r"no empty line, got an empty line 3; export the bundle again"):
        Bundle.open(bundle_copy)
