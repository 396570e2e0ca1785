"""``edge-purify inspect``: what a person wants of a bundle, and everything for a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sdk.bundle import MANIFEST
from tests.sdk.cli.helpers import Output

MEASURED = {
    "backend": "onnxruntime",
    "version": "1.31.1",
    "device": "x86_64",
    "precision": "int8",
    "budget": "standard",
    "norm": "linf",
    "eps": 8 / 255,
    "ladder": {
        "per-image worst": {"share": 0.3741, "low": 0.3512, "high": 0.3974, "images": 1000},
        "clean": {"share": 0.789, "low": 0.762, "high": 0.814, "images": 1000},
    },
    "failed_checks": ["more steps do better"],
}
PROVENANCE = {
    "config": {"name": "at", "data": {"name": "cifar10"}, "recipe": {"kind": "adversarial", "eps": 0.03}},
    "training_images": 48000,
    "validation_accuracy": {"purified": 0.8525},
    "ancestors": {"stage-1": {"config": {"optimizer": {"epochs": 15}}}},
    "export": {"edge-purify": "0.1.0"},
}


def edit(folder: Path, **fields: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rows(text: str) -> list[list[str]]:
    """Words of every line that are two spaces or more apart."""
    return [[cell for cell in line.strip().split("  ") if cell.strip()] for line in text.splitlines()]


def test_it_shows_what_the_bundle_holds(edge_purify: Callable[..., Output], tiny_bundle: Path) -> None:
    code, out, err = edge_purify("inspect", tiny_bundle)
    assert (code, err) == (0, [])
    for fact in ("tiny (ren)", "all hashes match", "16 x 16", "red, green, blue, dark", "nothing yet"):
        assert fact in out
    assert "6: 3 purifiers × 2 classifiers" in out
    assert "atom_mask: 9 of 12" in out
    assert "none; white-box attacks go through the ONNX graphs" in out


def test_every_engine_has_its_size_in_each_precision(
    edge_purify: Callable[..., Output], tiny_bundle: Path
) -> None:
    _, out, _ = edge_purify("inspect", tiny_bundle)
    table = [[cell.strip() for cell in row] for row in rows(out)]
    assert ["engine", "random inputs", "fp32"] in table
    size = (tiny_bundle / "onnx/purifier-01.onnx").stat().st_size
    assert ["purifier-01", "atom_mask: 9 of 12", f"{size / 1e3:.1f} kB"] in table


def test_the_ladder_is_a_table_with_intervals(edge_purify: Callable[..., Output], bundle_copy: Path) -> None:
    edit(bundle_copy, measured=[MEASURED, {**MEASURED, "budget": "clean", "failed_checks": []}])
    _, out, _ = edge_purify("inspect", bundle_copy)
    lines = out.splitlines()
    assert "standard attacks of linf 8/255, on int8 in onnxruntime 1.31.1, x86_64" in lines
    assert "clean images, on int8 in onnxruntime 1.31.1, x86_64" in lines
    table = [[cell.strip() for cell in row] for row in rows(out)]
    assert table.count(["per-image worst", "37.4%", "35.1% – 39.7%", "1000"]) == 2
    assert out.count("an attack may have been too weak: more steps do better") == 1


def test_the_provenance_is_short(edge_purify: Callable[..., Output], bundle_copy: Path) -> None:
    edit(bundle_copy, provenance=PROVENANCE)
    _, out, _ = edge_purify("inspect", bundle_copy)
    for fact in ("adversarial", "cifar10", "48000", "purified 85.2%", "stage-1", "edge-purify 0.1.0"):
        assert fact in out
    assert "epochs: 15" not in out
    assert len(out.splitlines()) < 45


def test_files_that_nothing_vouches_for_are_named(
    edge_purify: Callable[..., Output], bundle_copy: Path
) -> None:
    (bundle_copy / "notes.txt").touch()
    (bundle_copy / "bundle.json.sig").touch()
    _, out, _ = edge_purify("inspect", bundle_copy)
    assert "1 not in the manifest and not used: notes.txt" in out
    assert "there is one, not checked; --require-signature KEY checks it" in out


def test_json_has_everything(edge_purify: Callable[..., Output], bundle_copy: Path) -> None:
    edit(bundle_copy, measured=[MEASURED], provenance=PROVENANCE)
    _, out, _ = edge_purify("inspect", bundle_copy, "--json")
    found = json.loads(out)
    assert found["manifest"]["name"] == "tiny"
    assert found["manifest"]["measured"] == [MEASURED]
    assert found["manifest"]["provenance"] == PROVENANCE
    assert found["labels"] == ["red", "green", "blue", "dark"]
    files = {file["file"]: file["coverage"] for file in found["files"]}
    assert files["labels.txt"] == "listed"
    assert found["size_bytes"] == sum(
        path.stat().st_size
        for path in bundle_copy.rglob("*")
        if path.is_file() and path.name != "bundle.json"
    )


@pytest.mark.parametrize(
    "measured", [{}, {"ladder": 3}, {"ladder": {"pgd": None}}, {"ladder": {"pgd": {"share": []}}, "eps": {}}]
)
def test_figures_of_any_shape_are_no_traceback(
    measured: object, bundle_copy: Path, edge_purify: Callable[..., Output]
) -> None:
    provenance = {"config": 3, "validation_accuracy": {"raw": "x"}, "ancestors": [1]}
    edit(bundle_copy, measured=[measured], provenance=provenance)
    code, _, err = edge_purify("inspect", bundle_copy)
    assert (code, err) == (0, [])
