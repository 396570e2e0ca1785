"""A classifier that users bring as an ONNX file: trained through, frozen or not, kept with the checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from sdk.errors import UsageError
from tests.trainer.conftest import small
from tests.trainer.onnx_files import Normalized, trained, write
from trainer import checkpoint
from trainer.config import Classifier, Config
from trainer.config.conventions import Conventions
from trainer.data import Images
from trainer.loop.fit import fit
from trainer.models.onnx_classifier import OnnxClassifier, find, read_classifier


@pytest.fixture(scope="module")
def net(digits: Images) -> Normalized:
    return trained(digits[:1200])


@pytest.fixture
def file(net: Normalized, tmp_path: Path) -> Path:
    return write(net, tmp_path / "mine.onnx")


def config(file: Path, *overrides: str) -> Config:
    """REN by ``atop`` before the classifier in ``file``."""
    return small(
        "ren-cifar10-at",
        "model.classifier.widths=[64,128,128]",
        "model.classifier.blocks=2",
        "model.classifier.kind=onnx",
        "model.classifier.count=1",
        f"model.classifier.file={file}",
        "recipe.kind=atop",
        "recipe.eps=0.04",
        "optimizer.epochs=1",
        *overrides,
    )


def read(file: Path, **section: object) -> OnnxClassifier:
    return read_classifier(Classifier(kind="onnx", file=str(file), **section), 10, 16)  # type: ignore[arg-type]


def test_says_and_differentiates_what_the_network_does(net: Normalized, file: Path, digits: Images) -> None:
    images = digits[:5].pixels.float() / 255
    found, expected = [], []
    for model, values in ((read(file), found), (net, expected)):
        leaf = images.clone().requires_grad_()
        logits = model(leaf)
        logits.square().sum().backward()
        values += [logits.detach(), leaf.grad]
    for got, wanted in zip(found, expected, strict=True):
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize(
    "conventions",
    [
        Conventions(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
        Conventions(mean=(104.0, 117.0, 123.0), layout="nhwc", color="bgr", range=255),
    ],
)
def test_gives_the_image_as_the_file_wants_it(
    conventions: Conventions, net: Normalized, tmp_path: Path
) -> None:
    class AsGiven(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return net(image.permute(0, 3, 1, 2) if conventions.layout == "nhwc" else image)

    shape = (1, 16, 16, 3) if conventions.layout == "nhwc" else (1, 3, 16, 16)
    path = tmp_path / "mine.onnx"
    program = torch.onnx.export(AsGiven().eval(), (torch.zeros(shape),), dynamo=True, verbose=False)
    program.save(path)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    given = torch.from_numpy(conventions.apply(images.numpy()))
    found = read(path, input=conventions)(images)
    assert torch.allclose(found, AsGiven()(given), atol=1e-3 * float(found.detach().abs().max()))


def test_probabilities_are_recognized_and_become_logits(net: Normalized, tmp_path: Path) -> None:
    path = write(nn.Sequential(net, nn.Softmax(-1)), tmp_path / "mine.onnx")
    classifier = read(path)
    assert classifier.scores == "probabilities"
    images = torch.rand(3, 3, 16, 16)
    assert torch.allclose(classifier(images).softmax(-1), net(images).softmax(-1), atol=1e-5)
    assert read(path, scores="logits").scores == "logits"


def test_training_leaves_it_as_it_is_and_the_checkpoint_holds_its_file(
    file: Path, net: Normalized, digits: Images, tmp_path: Path
) -> None:
    content = file.read_bytes()
    best = fit(config(file), digits[:1200], digits[1200:], tmp_path / "run")
    file.unlink()
    loaded = checkpoint.load_defence(best)
    classifier = find(loaded.defence.classifier)
    assert classifier is not None
    assert classifier.onnx_bytes() == content
    assert loaded.config["model"]["classifier"]["file_sha256"] == hashlib.sha256(content).hexdigest()
    assert loaded.defence.n_classifiers == 1
    images = digits[:4].pixels.float() / 255
    assert torch.allclose(loaded.defence.classifier.all_logits(images)[0], net(images), atol=1e-3)


def test_not_frozen_its_weights_learn_and_come_back_as_a_file_of_the_same_graph(
    file: Path, digits: Images, tmp_path: Path
) -> None:
    settings = ("recipe.kind=adversarial", "recipe.freeze_classifier=false", "recipe.eps=0.02")
    best = fit(config(file, *settings), digits[:1200], digits[1200:], tmp_path / "run")
    classifier = find(checkpoint.load_defence(best).defence.classifier)
    assert classifier is not None
    (tmp_path / "adapted.onnx").write_bytes(classifier.onnx_bytes())
    before, after = onnx.load(file), onnx.load(tmp_path / "adapted.onnx")
    assert [node.SerializeToString() for node in before.graph.node] == [
        node.SerializeToString() for node in after.graph.node
    ]
    changed = [
        weight.name
        for weight, new in zip(before.graph.initializer, after.graph.initializer, strict=True)
        if (numpy_helper.to_array(weight) != numpy_helper.to_array(new)).any()
    ]
    assert len(changed) == 6  # two convolutions with their norms folded in, and a linear layer
    images = digits[:4].pixels.float() / 255
    adapted = read(tmp_path / "adapted.onnx")
    assert torch.allclose(adapted(images), classifier(images), atol=1e-5)
    assert not torch.allclose(adapted(images), read(file)(images), atol=1e-2)


def test_another_file_is_another_run(file: Path, digits: Images, tmp_path: Path) -> None:
    parts = digits[:1200], digits[1200:], tmp_path / "run"
    fit(config(file), *parts)
    write(Normalized(), file)
    with pytest.raises(UsageError, match="holds a run of another config"):
        fit(config(file), *parts, resume=True)


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"output": "nothing"}, "no node makes its output nothing"),
        (
            {"file_sha256": "0" * 64},
            r"its sha256 is .*…, expected 000000000000…; give the file that the run began",
        ),
        ({"input": Conventions(layout="nhwc")}, r"can't be followed in torch: operator Conv of node Conv_0"),
    ],
)
def test_refuses_in_one_line(section: dict[str, object], complaint: str, file: Path) -> None:
    with pytest.raises(UsageError, match=complaint):
        read(file, **section)


def test_refuses_a_file_that_is_absent_or_has_other_classes(file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"model\.classifier\.file .*none\.onnx: can't be read: No such file"
    ):
        read(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match=r"expected 7 scores for an image, model\.n_classes, got 10"):
        read_classifier(Classifier(kind="onnx", file=str(file)), 7, 16)
    with pytest.raises(UsageError, match=r"model\.classifier\.file: missing"):
        read_classifier(Classifier(kind="onnx"), 7, 16)


def test_one_score_is_that_of_the_second_class(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean"], ["score"], axes=[1]),
    ]
    values = [
        helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 16, 16]),
        helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["N", 1]),
    ]
    graph = helper.make_graph(nodes, "mean", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)]), tmp_path / "mean.onnx")
    classifier = read_classifier(Classifier(kind="onnx", file=str(tmp_path / "mean.onnx")), 2, 16)
    images = torch.rand(3, 3, 16, 16)
    found = classifier(images).softmax(-1)[:, 1]
    assert torch.allclose(found, images.mean((1, 2, 3)).sigmoid())
