"""A checkpoint small enough to export in seconds, and the bundle made from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from export.bundle import write as writer
from export.bundle.add_precisions import Lowering, lower_bundle
from export.bundle.write import write_bundle
from sdk.bundle import Bundle
from trainer import checkpoint, config, models

LABELS = ("cat", "dog", "ship", "truck")
CONFIG = {
    "name": "tiny",
    "data": {"name": "cifar10"},
    "recipe": {"kind": "clean"},
    "model": {
        "family": "ren",
        "n_classes": len(LABELS),
        "image_size": 16,
        "purifier": {"count": 3, "atoms": 24, "atoms_per_encoder": 20, "atoms_kept": 18},
        "classifier": {"count": 2, "widths": [8, 8, 8], "blocks": 1},
    },
}
MAEP_PURIFIER = {"width": 32, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2, "patches_kept": 12}
MAEP_CONFIG = {
    **CONFIG,
    "name": "tiny-maep",
    "recipe": {"kind": "masked"},
    "model": {**CONFIG["model"], "family": "maep", "purifier": MAEP_PURIFIER},
}


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small only lose by threads, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained defence with batch norms as uneven as trained ones: 16 x 16 pixels, K = 3, J = 2."""
    return save_untrained(CONFIG, tmp_path_factory.mktemp("checkpoint") / "best.pt")


@pytest.fixture(scope="package")
def maep_checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a masked autoencoder: 16 patches, 12 of them kept, a last layer that isn't zero."""
    return save_untrained(MAEP_CONFIG, tmp_path_factory.mktemp("checkpoint") / "maep.pt")


def save_untrained(tree: dict[str, Any], path: Path) -> Path:
    whole = config.from_dict(tree, where="the tests' config")
    defence = models.build(whole.model, seed=3)
    generator = torch.Generator().manual_seed(3)
    for module in defence.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    for member in defence.classifier.members:
        member[-1].weight.data *= 20  # logits of a few units, as after training
    if tree["model"]["family"] == "maep":
        head = defence.purifier.head.weight.data
        head.copy_(0.02 * torch.randn(head.shape, generator=generator))
    checkpoint.save(
        path,
        {
            "config": config.to_dict(whole),
            "averaged": defence.state_dict(),
            "labels": list(LABELS),
            "provenance": {"seed": 3, "validation_accuracy": 0.25},
        },
    )
    return path


@pytest.fixture(scope="package")
def loaded(checkpoint_path: Path) -> checkpoint.Loaded:
    return checkpoint.load_defence(checkpoint_path)


@pytest.fixture(scope="package")
def exported(loaded: checkpoint.Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's folder; shared, so never changed."""
    out = tmp_path_factory.mktemp("export") / "tiny"
    write_bundle(loaded, out)
    return out


@pytest.fixture(scope="package")
def lowered(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with FP16 and INT8 engines; shared, so never changed."""
    return with_lower_precisions(exported, tmp_path_factory.mktemp("lowered") / "tiny")


@pytest.fixture(scope="package")
def maep_lowered(maep_checkpoint_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MAEP bundle with engines of every precision; shared, so never changed."""
    out = tmp_path_factory.mktemp("export") / "tiny-maep"
    write_bundle(checkpoint.load_defence(maep_checkpoint_path), out)
    return with_lower_precisions(out, out.parent / "lowered")


def with_lower_precisions(bundle: Path, copy: Path) -> Path:
    shutil.copytree(bundle, copy)
    lower_bundle(copy, Lowering(("fp16", "int8")))
    return copy


@pytest.fixture
def bundle(exported: Path) -> Bundle:
    return Bundle.open(exported)


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of the bundle's folder, to be spoilt."""
    return Path(shutil.copytree(exported, tmp_path / "tiny"))


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
    """Engines come ready-made from the exported bundle: for tests that are about the rest."""

    def engine_bytes(module: Any, inputs: Any, *, output: str, name: str) -> bytes:
        return (exported / "onnx" / f"{name}.fp32.onnx").read_bytes()

    monkeypatch.setattr(writer, "engine_bytes", engine_bytes)
