"""The bundle of a checkpoint whose purifiers were trained through a user's ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.bundle.write import write_bundle
from export.checks.verify import verify
from sdk import Purifier
from sdk.bundle import Bundle, sha256_of
from tests.export.conftest import CONFIG, LABELS
from tests.trainer.onnx_files import Normalized, write
from trainer import checkpoint, config, models
from trainer.models.onnx_classifier import digest_of, find
from trainer.models.twin import read_twin
from trainer.robustness.defences.targets import open_target


def save(path: Path, file: Path, *, adapted: bool = False, **classifier: Any) -> Path:
    """An untrained purifier before the classifier in ``file``, as training leaves it."""
    section = {"kind": "onnx", "file": str(file), **classifier}
    whole = config.from_dict({**CONFIG, "model": {**CONFIG["model"], "classifier": section}}, where="tests")
    defence = models.build(whole.model, seed=3)
    if adapted:
        with torch.no_grad():
            for weight in defence.classifier.parameters():
                weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    tree = config.to_dict(whole)
    tree["model"]["classifier"]["file_sha256"] = digest_of(defence.classifier)
    provenance = {"config": tree, "validation_accuracy": {"raw": 0.5}}
    state = {
        "config": tree,
        "averaged": defence.state_dict(),
        "labels": list(LABELS),
        "provenance": provenance,
    }
    checkpoint.save(path, checkpoint.with_classifier_file(state, defence))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(Normalized(len(LABELS)).eval(), tmp_path / "mine.onnx")


@pytest.mark.parametrize("adapted", [False, True])
def test_its_bundle_has_the_file_or_what_training_made_of_it(
    adapted: bool, file: Path, tmp_path: Path
) -> None:
    digest = sha256_of(file)
    loaded = checkpoint.load_defence(save(tmp_path / "best.pt", file, adapted=adapted))
    file.unlink()
    found = write_bundle(loaded, tmp_path / "bundle", n_images=4)
    assert ("classifier-00", "file given") in {(one.engine, one.against) for one in found.deviations}
    bundle = Bundle.open(tmp_path / "bundle")
    engine = bundle.manifest.classifiers[0].onnx["fp32"]
    assert (engine.sha256 == digest) is not adapted
    assert (bundle.manifest.name, bundle.labels) == ("tiny", LABELS)
    assert bundle.manifest.provenance["validation_accuracy"] == {"raw": 0.5}
    twin, images = read_twin(bundle), torch.rand(2, 3, 16, 16)
    expected = loaded.defence.classifier.all_logits(images)
    assert torch.allclose(twin.classifier.all_logits(images), expected, atol=1e-4)
    verify(bundle, n_images=2)
    with Purifier.load(tmp_path / "bundle", seed=1) as purifier:
        assert purifier(np.full((40, 50, 3), 90, np.uint8)).label in LABELS
    with open_target(tmp_path / "bundle") as target:
        assert target.attacked == "its twin in torch, fp32"


def test_conventions_and_scores_go_into_the_engine(tmp_path: Path) -> None:
    net = torch.nn.Sequential(Normalized(len(LABELS)), torch.nn.Softmax(-1)).eval()
    settings = {"mean": [100, 110, 120], "std": [50, 60, 70], "range": 255, "color": "bgr"}
    path = save(tmp_path / "best.pt", write(net, tmp_path / "mine.onnx"), input=settings)
    loaded = checkpoint.load_defence(path)
    write_bundle(loaded, tmp_path / "bundle", n_images=4)
    images = torch.rand(2, 3, 16, 16)
    twin = read_twin(Bundle.open(tmp_path / "bundle"))
    expected = loaded.defence.classifier.all_logits(images)
    assert torch.allclose(twin.classifier.all_logits(images), expected, atol=1e-4)
    mean, std = torch.tensor([100.0, 110, 120]), torch.tensor([50.0, 60, 70])
    given = (images.flip(1) * 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.allclose(expected[0].softmax(-1), net(given), atol=1e-5)


def test_a_classifier_whose_graph_torch_cannot_follow_is_wrapped_all_the_same(
    file: Path, loaded: Any, tmp_path: Path
) -> None:
    """Only white-box attacks need the graph in torch; they name the operator that stands in the way."""
    from export.external_classifier.classifier import ForeignClassifier
    from export.external_classifier.conventions import Conventions
    from sdk.errors import BundleError

    model = onnx.load(file)
    model.graph.node.append(onnx.helper.make_node("Hardmax", ["logits"], ["hard"], name="last"))
    model.graph.output[0].name = "hard"
    onnx.save(model, file)
    foreign = ForeignClassifier(file, LABELS, Conventions(), scores="logits")
    write_bundle(loaded, tmp_path / "bundle", foreign=foreign, n_images=2)
    with pytest.raises(BundleError, match="operator Hardmax of node Hardmax_0 has no counterpart in torch"):
        read_twin(Bundle.open(tmp_path / "bundle"))


def test_the_checkpoint_finds_its_classifier(file: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load_defence(save(tmp_path / "best.pt", file))
    classifier = find(loaded.defence.classifier)
    assert classifier is not None
    assert classifier.onnx_bytes() == file.read_bytes()
