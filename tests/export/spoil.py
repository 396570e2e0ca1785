"""Ways to spoil a bundle on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from sdk.bundle import MANIFEST, sha256_of


def break_engine(folder: Path, engine: str, precision: str = "fp32") -> None:
    """Double the first convolution's weights in one engine, and make the manifest's hashes fit again.

    Both graphs of it, where CPUs have one of their own.
    """
    for path in (folder / "onnx").glob(f"{engine}.{precision}*.onnx"):
        model = onnx.load(path)
        weight = next(w for w in model.graph.initializer if len(w.dims) == 4 and w.dims[-1] > 1)
        weight.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(weight), weight.name))
        path.write_bytes(model.SerializeToString())
    rehash(folder)


def rehash(folder: Path) -> None:
    """Write every file's present sha256 into ``bundle.json``, as an attacker or a careless tool would."""
    edit_manifest(folder, lambda tree: _rehash(tree, folder))


def edit_manifest(folder: Path, edit: Any) -> None:
    path = folder / MANIFEST
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def _rehash(tree: Any, folder: Path) -> None:
    if isinstance(tree, dict) and "sha256" in tree:
        tree["sha256"] = sha256_of(folder / tree["file"])
    elif isinstance(tree, (dict, list)):
        for inner in tree.values() if isinstance(tree, dict) else tree:
            _rehash(inner, folder)
