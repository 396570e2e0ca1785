"""Put a bundle together from a trained defence, verify it, and only then let it appear under its name."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch

from export.card import render
from export.draws import engine_inputs, random_inputs
from export.golden import Golden
from export.images import synthetic_images
from export.onnx import OPSET, ExportError, engine_bytes
from export.verify import N_IMAGES, Verification, verify
from sdk.bundle import (
    MANIFEST,
    SCHEMA,
    Bundle,
    Engine,
    File,
    Image,
    Manifest,
    Twin,
    sha256_of,
    write_manifest,
)
from sdk.errors import GateError, UsageError
from trainer.models.defence import Defence
from trainer.twin import save_twin

if TYPE_CHECKING:
    from trainer.checkpoint import Loaded

LIMIT_BYTES = 24_000_000  # bundles ship inside a Python package
GOLDEN_IMAGES = 2
GOLDEN_DRAWS = 8
GOLDEN_VALUES = 50_000  # of purified images, over all draws: 200 kB

OnStep = Callable[[str], None]


def write_bundle(
    loaded: Loaded,
    out: Path,
    *,
    name: str | None = None,
    force: bool = False,
    n_images: int = N_IMAGES,
    on_step: OnStep = lambda step: None,
) -> Verification:
    """Export ``loaded`` to the folder ``out``, which appears whole and verified, or not at all.

    Args:
        name: the bundle's name; the training config's where it is None.
        force: replace the bundle that is in ``out``.
        n_images: images that every engine is compared with its twin on.
        on_step: called with the name of each step as it begins.

    Raises:
        UsageError: ``out`` can't take a bundle.
        ExportError: the model can't be exported, or the folder can't be written.
        GateError: an engine is off its twin, or the bundle is too large.
    """
    out = out.resolve()
    _check_target(out, force)
    try:
        with _staged(out, force) as folder:
            _fill(folder, loaded, name or loaded.config["name"], on_step)
            _check_size(folder)
            on_step("verify")
            return verify(Bundle.open(folder), n_images=n_images)
    except OSError as error:
        raise ExportError(f"{out}: the bundle can't be written: {error.strerror or error}") from error


@torch.inference_mode()
def make_golden(defence: Defence, height: int, width: int) -> Golden:
    """What ``defence`` answers under a few draws that use every purifier and every classifier."""
    n_draws = max(GOLDEN_DRAWS, defence.n_purifiers, defence.n_classifiers)
    order = torch.arange(n_draws)
    draw = replace(
        defence.draw(n_draws, torch.Generator().manual_seed(0)),
        purifier=order % defence.n_purifiers,
        classifier=order % defence.n_classifiers,
    )
    images = synthetic_images(GOLDEN_IMAGES, height, width)
    # by halves, so that an engine that is drawn in both halves sees both images
    image = order * GOLDEN_IMAGES // n_draws
    purified = defence.purify(images[image].float() / 255, draw)  # (N, 3, H, W)
    values = purified[0].numel()
    positions = np.linspace(0, values - 1, min(values, GOLDEN_VALUES // n_draws)).astype(np.int64)
    return Golden(
        images=images.numpy(),
        image=image.numpy(),
        purifier=draw.purifier.numpy(),
        classifier=draw.classifier.numpy(),
        random_inputs=dict(engine_inputs(draw)),
        positions=positions,
        purified=purified.flatten(1).numpy()[:, positions],
        logits=defence.classify(purified, draw).numpy(),
    )


def _fill(folder: Path, loaded: Loaded, name: str, on_step: OnStep) -> None:
    """Write every file of the bundle into the empty ``folder``; ``bundle.json`` comes last."""
    defence, size = loaded.defence, loaded.image_size
    purifiers, classifiers = _write_engines(folder, defence, size, on_step)
    on_step("twin and golden outputs")
    save_twin(defence, folder / "twin.safetensors")
    make_golden(defence, size, size).save(folder / "golden.npz")
    (folder / "labels.txt").write_text("\n".join(loaded.labels) + "\n", encoding="utf-8")
    manifest = Manifest(
        schema=SCHEMA,
        name=name,
        family=loaded.family,
        labels=_file(folder, "labels.txt"),
        image=Image(height=size, width=size),
        purifiers=purifiers,
        classifiers=classifiers,
        golden=_file(folder, "golden.npz"),
        twin=Twin(weights=_file(folder, "twin.safetensors"), config=loaded.config["model"]),
        provenance={**loaded.provenance, "export": _toolchain()},
    )
    (folder / "MODEL_CARD.md").write_text(render(manifest, loaded.labels), encoding="utf-8")
    write_manifest(folder, msgspec.structs.replace(manifest, card=_file(folder, "MODEL_CARD.md")))


def _write_engines(
    folder: Path, defence: Defence, size: int, on_step: OnStep
) -> tuple[tuple[Engine, ...], tuple[Engine, ...]]:
    (folder / "onnx").mkdir()
    image = {"image": torch.zeros(1, 3, size, size)}
    draw = defence.draw(1, torch.Generator().manual_seed(0))
    image_and_draw = image | {name: torch.from_numpy(value) for name, value in engine_inputs(draw).items()}
    purifiers, classifiers = [], []
    for index in range(defence.n_purifiers):
        on_step(id := f"purifier-{index:02d}")
        onnx = engine_bytes(defence.single_purifier(index), image_and_draw, output="purified", name=id)
        purifiers.append(Engine(id, {"fp32": _write_onnx(folder, id, onnx)}, random_inputs(defence)))
    for index in range(defence.n_classifiers):
        on_step(id := f"classifier-{index:02d}")
        onnx = engine_bytes(defence.single_classifier(index), image, output="logits", name=id)
        classifiers.append(Engine(id, {"fp32": _write_onnx(folder, id, onnx)}))
    return tuple(purifiers), tuple(classifiers)


def _write_onnx(folder: Path, id: str, onnx: bytes) -> File:
    path = f"onnx/{id}.fp32.onnx"
    (folder / path).write_bytes(onnx)
    return _file(folder, path)


def _file(folder: Path, path: str) -> File:
    return File(path, sha256_of(folder / path))


def _toolchain() -> dict[str, str | int]:
    versions = {
        package: importlib.metadata.version(package)
        for package in ("edge-purify", "torch", "onnx", "onnxslim")
    }
    return {**versions, "opset": OPSET}


def _check_size(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT_BYTES:
        raise GateError(
            f"the bundle would take {size / 1e6:.1f} MB, expected at most {LIMIT_BYTES / 1e6:.0f} MB; "
            "train a narrower classifier (model.classifier.widths) or fewer of them"
        )


def _check_target(out: Path, force: bool) -> None:
    if not out.parent.is_dir():
        raise UsageError(f"OUT {out}: the folder {out.parent} doesn't exist; create it first")
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"OUT {out}: it is a file, expected a folder's name")
    if not any(out.iterdir()):
        return
    if not (out / MANIFEST).is_file():
        raise UsageError(f"OUT {out}: the folder holds other things than a bundle; give another name")
    if not force:
        raise UsageError(
            f"OUT {out}: a bundle is there already; replace it with --force, or give another name"
        )


@contextmanager
def _staged(out: Path, force: bool) -> Iterator[Path]:
    """A new folder beside ``out``: it takes that place on success, and vanishes on any failure or Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as room:
        folder, replaced = Path(room, "new"), Path(room, "replaced")
        folder.mkdir()
        yield folder
        if force and out.exists():
            out.rename(replaced)
        try:
            folder.rename(out)
        except BaseException:
            if replaced.exists():
                replaced.rename(out)
            raise
