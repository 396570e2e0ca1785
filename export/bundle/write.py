"""Put a bundle together from a trained defence, verify it, and only then let it appear under its name."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import torch

from export.bundle.add_precisions import Lowering, add_precisions
from export.bundle.card import render
from export.bundle.staging import staged
from export.checks.outcome import Verification
from export.checks.twin_parity import classifier_parity, parity, purifier_parity
from export.checks.verify import N_IMAGES, CompareFp32, OnStep
from export.inputs.draws import engine_inputs, random_inputs
from export.inputs.synthetic_images import synthetic_images
from export.precision.weight_storage import compressed
from export.torch_to_onnx import OPSET, ExportError, engine_bytes
from sdk.backends.golden import Golden
from sdk.backends.interface import Backend
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
from sdk.bundle.deviation import Deviation
from sdk.errors import UsageError
from trainer.models.defence import Defence
from trainer.models.onnx_classifier import find
from trainer.models.twin import read_twin, save_twin

if TYPE_CHECKING:
    from export.external_classifier.classifier import ForeignClassifier
    from trainer.checkpoint import Loaded

FP32_ALONE = Lowering()
GOLDEN_IMAGES = 2
MEASURED = ("accuracy", "loss", "pgd", "probe", "robust")  # in the names of provenance that is a figure
GOLDEN_DRAWS = 8
GOLDEN_VALUES = 50_000  # of purified images, over all draws: 200 kB


def write_bundle(
    loaded: Loaded,
    out: Path,
    *,
    name: str | None = None,
    force: bool = False,
    foreign: ForeignClassifier | None = None,
    n_images: int = N_IMAGES,
    lowering: Lowering = FP32_ALONE,
    report: Path | None = None,
    on_step: OnStep = lambda step: None,
) -> Verification:
    """Export ``loaded`` to the folder ``out``, which appears whole and verified, or not at all.

    Args:
        name: the bundle's name; where it is None, the training config's, or that of the foreign
            classifier's file.
        force: replace the bundle that is in ``out``.
        foreign: the classifier in place of the defence's own.
        n_images: images that every engine is compared with what it was made from on.
        lowering: the precisions that it gets beside FP32, and by which images.
        report: a file, ``.json`` or ``.xml``, for everything that was measured.
        on_step: called with the name of each step as it begins.

    Raises:
        UsageError: ``out`` can't take a bundle, ``foreign`` doesn't fit the purifiers, or there are none.
        ExportError: the model can't be exported, or the folder can't be written.
        GateError: an engine is off its twin.
    """
    _check_purifies(loaded)
    out = out.resolve()
    _check_target(out, force)
    chosen = name or (loaded.config["name"] if foreign is None else foreign.path.stem)
    if foreign is None and find(loaded.defence.classifier) is not None:
        from export.external_classifier.trained import trained_classifier

        foreign = trained_classifier(loaded)
    try:
        with staged(out, force) as folder:
            _fill(folder, loaded, chosen, foreign, on_step)
            return add_precisions(
                folder,
                lowering,
                n_images=n_images,
                report=report,
                on_step=on_step,
                compare_fp32=_comparison(loaded.defence, foreign, n_images),
            )
    except OSError as error:
        raise ExportError(f"{out}: the bundle can't be written: {error.strerror or error}") from error


@torch.inference_mode()
def make_golden(
    defence: Defence, height: int, width: int, foreign: ForeignClassifier | None = None
) -> Golden:
    """What ``defence``, or ``foreign`` behind it, answers under a few draws that use every engine."""
    n_classifiers = 1 if foreign is not None else defence.n_classifiers
    n_draws = max(GOLDEN_DRAWS, defence.n_purifiers, n_classifiers)
    order = torch.arange(n_draws)
    draw = replace(
        defence.draw(n_draws, torch.Generator().manual_seed(0)),
        purifier=order % defence.n_purifiers,
        classifier=order % n_classifiers,
    )
    images = synthetic_images(GOLDEN_IMAGES, height, width)
    # by halves, so that an engine that is drawn in both halves sees both images
    image = order * GOLDEN_IMAGES // n_draws
    purified = defence.purify(images[image].float() / 255, draw)  # (N, 3, H, W)
    logits = (
        defence.classify(purified, draw).numpy() if foreign is None else foreign.classify(purified.numpy())
    )
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
        logits=logits,
    )


def _fill(
    folder: Path, loaded: Loaded, name: str, foreign: ForeignClassifier | None, on_step: OnStep
) -> None:
    """Write every file of the bundle into the empty ``folder``; ``bundle.json`` comes last."""
    defence = loaded.defence
    image = _image(loaded, foreign)
    (folder / "onnx").mkdir()
    purifiers = _write_purifiers(folder, defence, image, on_step)
    labels, config, provenance = loaded.labels, loaded.config["model"], loaded.provenance
    save_twin(defence, folder / "twin.safetensors", purifiers_alone=foreign is not None)
    if foreign is None:
        classifiers = _write_classifiers(folder, defence, image, on_step)
    else:
        classifiers = _write_foreign(folder, foreign, on_step)
    if foreign is not None and not foreign.trained_with:
        config = {**config, "n_classes": len(foreign.labels), "classifier": {"kind": "onnx"}}
        # what was measured of the purifiers' own classifier says nothing of this one
        purifiers_from = {"name": loaded.config["name"], **_without_figures(loaded.provenance)}
        labels = foreign.labels
        provenance = {"foreign_classifier": foreign.says, "purifiers_from": purifiers_from}
    on_step("golden outputs")
    make_golden(defence, image.height, image.width, foreign).save(folder / "golden.npz")
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    manifest = Manifest(
        schema=SCHEMA,
        name=name,
        family=msgspec.convert(loaded.family, Literal["ren", "maep"]),
        labels=_file(folder, "labels.txt"),
        image=image,
        purifiers=purifiers,
        classifiers=classifiers,
        golden=_file(folder, "golden.npz"),
        twin=Twin(weights=_file(folder, "twin.safetensors"), config=config),
        provenance={**provenance, "export": _toolchain()},
    )
    (folder / "MODEL_CARD.md").write_text(render(manifest, labels), encoding="utf-8")
    write_manifest(folder, msgspec.structs.replace(manifest, card=_file(folder, "MODEL_CARD.md")))


def _without_figures(provenance: dict[str, Any]) -> dict[str, Any]:
    """How the purifiers were made: a provenance without accuracies and losses of the whole defence."""
    return {key: value for key, value in provenance.items() if not any(word in key for word in MEASURED)}


def _image(loaded: Loaded, foreign: ForeignClassifier | None) -> Image:
    """The engines' image size: the training's, or that of the foreign classifier."""
    if foreign is None:
        height, width = loaded.image_size
        return Image(height=height, width=width)
    return Image(height=foreign.height, width=foreign.width)


def _write_purifiers(folder: Path, defence: Defence, image: Image, on_step: OnStep) -> tuple[Engine, ...]:
    draw = defence.draw(1, torch.Generator().manual_seed(0))
    inputs = {"image": torch.zeros(1, 3, image.height, image.width)}
    inputs |= {name: torch.from_numpy(value) for name, value in engine_inputs(draw).items()}
    engines = []
    for index in range(defence.n_purifiers):
        on_step(id := f"purifier-{index:02d}")
        file = _write_module(folder, id, defence.single_purifier(index), inputs, "purified")
        engines.append(Engine(id, {"fp32": file}, random_inputs(defence)))
    return tuple(engines)


def _write_classifiers(folder: Path, defence: Defence, image: Image, on_step: OnStep) -> tuple[Engine, ...]:
    inputs = {"image": torch.zeros(1, 3, image.height, image.width)}
    engines = []
    for index in range(defence.n_classifiers):
        on_step(id := f"classifier-{index:02d}")
        file = _write_module(folder, id, defence.single_classifier(index), inputs, "logits")
        engines.append(Engine(id, {"fp32": file}))
    return tuple(engines)


def _write_foreign(folder: Path, foreign: ForeignClassifier, on_step: OnStep) -> tuple[Engine, ...]:
    on_step(id := "classifier-00")
    content = foreign.engine_bytes(id)
    if content != foreign.content:  # a file that is an engine already stays as it is
        content = compressed(content)
    return (Engine(id, {"fp32": _write_onnx(folder, id, content)}),)


def _comparison(defence: Defence, foreign: ForeignClassifier | None, n_images: int) -> CompareFp32:
    """What FP32 engines are held to: the defence, and a foreign classifier to its own file."""

    def compare(bundle: Bundle, backend: Backend) -> list[Deviation]:
        if foreign is None:  # as it is in the bundle, so that the twin's file is proven too
            return parity(bundle, backend, read_twin(bundle, trust_code=True), n_images=n_images)
        return purifier_parity(bundle, backend, defence, n_images=n_images) + classifier_parity(
            bundle,
            backend,
            defence,
            lambda images, index: torch.from_numpy(foreign.classify(images.numpy())),
            "file given",
            n_images=n_images,
        )

    return compare


def _write_module(
    folder: Path, id: str, module: torch.nn.Module, inputs: dict[str, torch.Tensor], output: str
) -> File:
    weights = [value.numpy() for value in module.state_dict().values() if value.dtype is torch.float32]
    return _write_onnx(folder, id, compressed(engine_bytes(module, inputs, output=output, name=id), weights))


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


def _check_purifies(loaded: Loaded) -> None:
    """What a ``Purifier`` gives out as purified must have been through a purifier."""
    if loaded.family == "none":
        raise UsageError(
            f"checkpoint of {loaded.config['name']}: expected model.family ren or maep, got none: a bundle "
            "purifies, and this is a classifier alone",
            hint="compare with it by 'edge-train evaluate TARGET --against CHECKPOINT'",
        )


def _check_target(out: Path, force: bool) -> None:
    if not out.parent.is_dir():
        raise UsageError(f"OUT {out}: the folder {out.parent} doesn't exist", hint="create it first")
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"OUT {out}: it is a file, expected a folder's name")
    if not any(out.iterdir()):
        return
    if not (out / MANIFEST).is_file():
        raise UsageError(f"OUT {out}: the folder holds other things than a bundle", hint="give another name")
    if not force:
        raise UsageError(
            f"OUT {out}: a bundle is there already", hint="replace it with --force, or give another name"
        )
