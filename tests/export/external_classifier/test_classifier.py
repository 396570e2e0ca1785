"""Bring your own classifier: its conventions go into the graph, and its own file is what it is held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.bundle.write import write_bundle
from export.external_classifier.classifier import ForeignClassifier, read_labels
from export.external_classifier.conventions import Conventions
from export.inputs.synthetic_images import synthetic_images
from export.precision.ranges import session
from export.torch_to_onnx import ExportError
from sdk.bundle import Bundle
from sdk.errors import UsageError
from sdk.purifier import Purifier
from tests.export.cli.helpers import assert_one_line, run
from tests.export.tensorrt.helpers import build_size_bytes
from trainer.checkpoint import load_defence
from trainer.models.twin import read_twin

LABELS = ("red", "green", "blue")
IMAGENET = Conventions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CAFFE = Conventions(mean=(104.0, 117.0, 123.0), layout="nhwc", color="bgr", range=255)


def write_classifier(path: Path, *, end: str = "", **change: Any) -> Path:
    """A classifier of 16 x 16 images as others export theirs: names with paths, opset 13, batch open.

    Args:
        end: operators after the scores, like "Softmax Flatten"; "" for none.
        change: shape (of the input), opset, outputs (number), domain (of the pooling), dtype (of the input),
            white (its value in the classifier's range).
    """
    shape = change.get("shape", ["batch", 3, 16, 16])
    is_nhwc = shape[-1] == 3
    rng = np.random.default_rng(0)
    constants = {
        "/model/conv.weight": rng.normal(0, 0.3, (8, 3, 3, 3)) / change.get("white", 1),
        "/model/conv.bias": rng.normal(0, 0.3, 8),
        "/model/head.weight": rng.normal(0, 1, (3, 8)),
        "/model/head.bias": rng.normal(0, 0.1, 3),
    }
    nodes = [helper.make_node("Transpose", ["input"], ["x"], perm=[0, 3, 1, 2])] if is_nhwc else []
    first = "x" if is_nhwc else "input"
    nodes += [
        helper.make_node(
            "Conv", [first, "/model/conv.weight", "/model/conv.bias"], ["/c"], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["/c"], ["/r"], doc_string="/users/someone/net.py"),
        helper.make_node("GlobalAveragePool", ["/r"], ["/p"], domain=change.get("domain", "")),
        helper.make_node("Flatten", ["/p"], ["/f"], axis=1),
        helper.make_node("Gemm", ["/f", "/model/head.weight", "/model/head.bias"], ["scores"], transB=1),
    ]
    integers = {"Reshape": [-1, 3], "Squeeze": [1], "Unsqueeze": [1]}
    for operator in end.split():
        nodes[-1].output[0] = f"/before/{operator}"
        inputs = [f"/before/{operator}", *([f"/model/{operator}"] if operator in integers else [])]
        axis = {"axis": -1} if operator == "Softmax" else {}
        nodes.append(helper.make_node(operator, inputs, ["scores"], **axis))
    outputs = [("scores", [None, 3]), ("/f", [None, 8])][: change.get("outputs", 1)]
    graph = helper.make_graph(
        nodes,
        "/users/someone/net",
        [helper.make_tensor_value_info("input", change.get("dtype", TensorProto.FLOAT), shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()]
        + [
            numpy_helper.from_array(np.array(values), f"/model/{operator}")
            for operator, values in integers.items()
            if operator in end.split()
        ],
    )
    opsets = [helper.make_opsetid("", change.get("opset", 13))]
    if change.get("domain"):
        opsets.append(helper.make_opsetid(change["domain"], 1))
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture
def labels_path(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n")
    return path


def images(count: int = 6, side: int = 16) -> np.ndarray:
    return synthetic_images(count, side, side, seed=9).numpy().astype(np.float32) / 255


def images_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (2, 3, height, width)).astype(np.float32)


def wrapped(foreign: ForeignClassifier, batch: np.ndarray) -> np.ndarray:
    engine = session(foreign.engine_bytes("classifier-00"), "classifier-00")
    return np.concatenate([engine.run(None, {"image": image[None]})[0] for image in batch])


def test_conventions_as_published_for_imagenet_and_for_caffe() -> None:
    white = np.ones((1, 3, 1, 1), np.float32)
    assert IMAGENET.apply(white).ravel() == pytest.approx(
        [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    )
    red = np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1)
    assert CAFFE.apply(red).shape == (1, 1, 1, 3)
    assert CAFFE.apply(red).ravel() == pytest.approx([-104, -117, 255 - 123])


@pytest.mark.parametrize("conventions", [Conventions(), IMAGENET, CAFFE, Conventions(color="bgr", range=255)])
@pytest.mark.parametrize("end", ["", "Softmax"])
def test_the_engine_answers_as_the_file_does_under_its_own_conventions(
    tmp_path: Path, conventions: Conventions, end: str
) -> None:
    shape = ["batch", 16, 16, 3] if conventions.layout == "nhwc" else ["batch", 3, 16, 16]
    path = write_classifier(tmp_path / "net.onnx", end=end, shape=shape, white=conventions.range)
    foreign = ForeignClassifier(path, LABELS, conventions)
    given = session(path.read_bytes(), "given")
    scores = np.concatenate(
        [given.run(None, {"input": conventions.apply(image[None])})[0] for image in images()]
    )
    found = wrapped(foreign, images())
    expected = np.log(np.maximum(scores, 1e-12)) if end else scores
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert len(np.unique(found.argmax(-1))) > 1 or np.ptp(found, axis=0).max() > 0.01, "images matter"


@pytest.mark.parametrize("shaped_by", ["Identity", "Flatten", "Reshape", "Unsqueeze Squeeze"])
def test_a_softmax_before_operators_that_only_shape_is_one_too(tmp_path: Path, shaped_by: str) -> None:
    path = write_classifier(tmp_path / "net.onnx", end=f"Softmax {shaped_by}")
    foreign = ForeignClassifier(path, LABELS, IMAGENET)
    assert foreign.gives_probabilities
    given = session(path.read_bytes(), "given")
    expected = np.concatenate(
        [given.run(None, {"input": IMAGENET.apply(image[None])})[0] for image in images()]
    )
    assert np.abs(np.exp(wrapped(foreign, images())) - expected).max() < 1e-6


def test_shaping_operators_alone_make_no_probabilities(tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "net.onnx", end="Unsqueeze Squeeze")
    assert not ForeignClassifier(path, LABELS, IMAGENET).gives_probabilities


def test_nothing_of_the_files_own_names_remains_and_the_header_is_ours(tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "net.onnx")
    data = ForeignClassifier(path, LABELS, IMAGENET).engine_bytes("classifier-00")
    model = onnx.load_model_from_string(data)
    assert (model.ir_version, model.producer_name, model.graph.name) == (10, "edge-purify", "classifier-00")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert b"someone" not in data
    assert b"/model" not in data


def test_a_bundle_around_it_runs_and_is_attacked_through_the_files_own_graph(
    checkpoint_path: Path, labels_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    options = ["--classifier-onnx", write_classifier(tmp_path / "net.onnx"), "--labels", labels_path]
    conventions = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    result = run("bundle", checkpoint_path, out, *options, *conventions, "--precision", "fp16", "--json")
    assert result.exit_code == 0, result.output
    found = {(d["engine"], d["against"]): d["max_abs"] for d in json.loads(result.stdout)["deviations"]}
    assert 0 < found["purifier-00", "twin"] <= 1e-4
    assert 0 < found["classifier-00", "file given"] <= 1e-4
    bundle = Bundle.open(out)
    assert (bundle.labels, len(bundle.manifest.classifiers)) == (LABELS, 1)
    assert bundle.manifest.has_external_classifier
    assert bundle.manifest.provenance["foreign_classifier"]["file"] == "net.onnx"
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "white-box attacks go through its own graph" in card
    assert "The purifiers were **not trained with it**." in card
    twin = read_twin(bundle)
    draw = twin.draw(3, torch.Generator().manual_seed(0))
    attacked = torch.from_numpy(images(3)).requires_grad_()
    logits = twin(attacked, draw)
    logits.square().sum().backward()
    assert attacked.grad.abs().max() > 0
    foreign = ForeignClassifier(tmp_path / "net.onnx", LABELS, IMAGENET)
    expected = foreign.classify(twin.purify(attacked, draw).detach().numpy())
    assert np.abs(logits.detach().numpy() - expected).max() < 1e-3
    for engine in bundle.manifest.classifiers:
        assert build_size_bytes(bundle.path(engine.onnx["fp16"]).read_bytes()) > 0
    with Purifier.load(out, seed=1) as purifier:
        assert (
            purifier(np.full((40, 50, 3), 90, np.uint8) + np.arange(50, dtype=np.uint8)[:, None]).label
            in LABELS
        )
    verified = run("verify", out, "--images", 2, "--json")
    assert verified.exit_code == 0
    found = {(d["engine"], d["against"]) for d in json.loads(verified.stdout)["deviations"]}
    assert ("purifier-00", "twin") in found


@pytest.mark.usefixtures("ready")
def test_the_purifiers_may_come_from_a_bundle(exported: Path, labels_path: Path, tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "net.onnx")
    result = run("bundle", exported, tmp_path / "out", "--classifier-onnx", path, "--labels", labels_path)
    assert result.exit_code == 0, result.output
    made, source = Bundle.open(tmp_path / "out"), Bundle.open(exported)
    assert [e.onnx["fp32"].sha256 for e in made.manifest.purifiers] == [
        e.onnx["fp32"].sha256 for e in source.manifest.purifiers
    ]


def test_ren_purifiers_take_the_size_of_the_classifier(loaded: Any, tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "net.onnx", shape=[1, 3, 24, 32])
    foreign = ForeignClassifier(path, LABELS, IMAGENET)
    write_bundle(loaded, tmp_path / "out", foreign=foreign, n_images=2)
    image = Bundle.open(tmp_path / "out").manifest.image
    assert (image.height, image.width) == (24, 32)


@pytest.mark.parametrize("shape", [[1, 3, 33, 32], [1, 3, 32, 33]])
def test_ren_purifiers_take_odd_sides(loaded: Any, tmp_path: Path, shape: list[int]) -> None:
    """The last row or column is repeated for the purifier, and cut off behind it, in torch too."""
    path = write_classifier(tmp_path / "net.onnx", shape=shape)
    foreign = ForeignClassifier(path, LABELS, IMAGENET)
    found = write_bundle(loaded, tmp_path / "out", foreign=foreign, n_images=2)
    image = Bundle.open(tmp_path / "out").manifest.image
    assert [1, 3, image.height, image.width] == shape
    assert {one.output for one in found.deviations if one.against == "twin"} == {"purified image"}
    with Purifier.load(tmp_path / "out", seed=1) as purifier:
        result = purifier(np.full((60, 70, 3), 90, np.uint8))
        assert result.purified.shape == (*shape[2:], 3)


def test_maep_purifiers_take_the_size_of_the_classifier_by_tiles(
    maep_checkpoint_path: Path, labels_path: Path, tmp_path: Path
) -> None:
    path = write_classifier(tmp_path / "net.onnx", shape=[1, 3, 24, 40])
    result = run(
        "bundle", maep_checkpoint_path, tmp_path / "out", "--classifier-onnx", path, "--labels", labels_path
    )
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(tmp_path / "out")
    assert (bundle.manifest.image.height, bundle.manifest.image.width) == (24, 40)
    purifier, small = read_twin(bundle).purifier, load_defence(maep_checkpoint_path).defence
    images, draw = torch.from_numpy(images_of(24, 40)), small.draw(2, torch.Generator().manual_seed(0))
    found = purifier(images, draw.purifier, draw.random_input)
    corner = small.purify(images[:, :, :16, 16:32], draw)
    assert torch.allclose(found[:, :, :16, 16:32], corner, atol=1e-5)
    with Purifier.load(tmp_path / "out", seed=1) as loaded:
        assert loaded(np.full((60, 70, 3), 90, np.uint8)).purified.shape == (24, 40, 3)


@pytest.mark.parametrize("size", ["height", -1, 0])
def test_an_open_size_must_be_given(tmp_path: Path, size: object) -> None:
    """Paddle's exporter writes -1; others leave a name, or nothing."""
    path = write_classifier(tmp_path / "net.onnx", shape=[1, 3, size, size])
    with pytest.raises(UsageError, match=r"leaves the height and width of its image open.*--image-size H,W"):
        ForeignClassifier(path, LABELS, IMAGENET)
    foreign = ForeignClassifier(path, LABELS, IMAGENET, image_size=(20, 24))
    assert (foreign.height, foreign.width) == (20, 24)
    assert wrapped(foreign, images(2, 24)[:, :, :20]).shape == (2, 3)


def test_a_size_that_the_file_fixes_cannot_be_changed(tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=r"--image-size 32,32: .* takes images of 16 x 16 and no other"):
        ForeignClassifier(path, LABELS, IMAGENET, image_size=(32, 32))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"shape": ["batch", 16, 16, 3]},
            r"expected an input \(1, 3, H, W\) for --layout nchw, .*--layout nhwc",
        ),
        ({"outputs": 2}, r"it has 2 outputs: 'scores', '/f'; name the one .* by --output NAME"),
        ({"dtype": TensorProto.BOOL}, "expected an image of floats or integers, got bool"),
    ],
)
def test_a_file_that_is_no_classifier_of_one_image(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    path = write_classifier(tmp_path / "net.onnx", **change)
    with pytest.raises(UsageError, match=complaint) as caught:
        ForeignClassifier(path, LABELS, IMAGENET)
    assert "\n" not in str(caught.value)


def test_as_many_labels_as_scores(tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="gives 3 scores for an image, and --labels has 2"):
        ForeignClassifier(path, LABELS[:2], IMAGENET)


def test_operators_that_are_not_onnx_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = ForeignClassifier(write_classifier(tmp_path / "net.onnx"), LABELS, IMAGENET)
    foreign.model.graph.node[1].domain = "com.microsoft"
    with pytest.raises(ExportError, match=r"operator com\.microsoft\.Relu: expected ONNX's own operators"):
        foreign.engine_bytes("classifier-00")


def test_a_file_that_is_not_onnx(tmp_path: Path, labels_path: Path, checkpoint_path: Path) -> None:
    (tmp_path / "notes.onnx").write_text("notes")
    for name, complaint in (("notes.onnx", "not readable as an ONNX model"), ("absent.onnx", "no such file")):
        result = run(
            "bundle",
            checkpoint_path,
            tmp_path / "out",
            "--classifier-onnx",
            tmp_path / name,
            "--labels",
            labels_path,
        )
        assert_one_line(result, 2, name, complaint)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "give its labels too, by --labels FILE"),
        (["--labels", "absent.txt"], "--labels absent.txt: can't be read"),
        (["--labels", "LABELS", "--mean", "a,b,c"], "--mean a,b,c: expected three numbers"),
        (["--labels", "LABELS", "--std", "1,0,1"], "every std above 0"),
        (["--labels", "LABELS", "--mean", "1,2"], "expected three numbers each"),
    ],
)
def test_options_that_are_wrong(
    checkpoint_path: Path, labels_path: Path, tmp_path: Path, options: list[str], complaint: str
) -> None:
    path = write_classifier(tmp_path / "net.onnx")
    given = [str(labels_path) if option == "LABELS" else option for option in options]
    assert_one_line(
        run("bundle", checkpoint_path, tmp_path / "out", "--classifier-onnx", path, *given), 2, complaint
    )


@pytest.mark.parametrize(
    "option",
    ["--labels=x", "--mean=1,1,1", "--std=2,2,2", "--layout=nhwc", "--color=bgr", "--range=255"],
)
def test_what_describes_another_classifier_is_refused_without_one(
    checkpoint_path: Path, tmp_path: Path, option: str
) -> None:
    result = run("bundle", checkpoint_path, tmp_path / "out", option)
    assert_one_line(result, 2, f"{option.split('=')[0]}: it describes the classifier of --classifier-onnx")


def test_a_bundle_without_another_classifier_is_no_checkpoint(exported: Path, tmp_path: Path) -> None:
    assert_one_line(run("bundle", exported, tmp_path / "out"), 2, "it is a folder; give a checkpoint's file")


def test_labels_without_end_are_refused() -> None:
    with pytest.raises(UsageError, match="--labels /dev/zero: can't be read: it is larger than 64 MiB"):
        read_labels(Path("/dev/zero"))
