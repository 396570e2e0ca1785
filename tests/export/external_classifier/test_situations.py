"""Classifiers as people have them: other endings, types, batches and outputs, and what tools get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxslim
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.external_classifier.classifier import ForeignClassifier
from export.external_classifier.conventions import Conventions
from export.precision.int8 import quantizable
from export.precision.ranges import session
from export.torch_to_onnx import ExportError
from sdk.bundle import Bundle
from sdk.errors import UsageError
from tests.export.cli.helpers import assert_one_line, run
from tests.export.external_classifier.test_classifier import LABELS, images, wrapped, write_classifier

PLAIN = Conventions()
TO_255 = Conventions(range=255)


def edited(path: Path, edit: Any) -> Path:
    model = onnx.load(path)
    edit(model.graph)
    onnx.save(model, path)
    return path


def append(*steps: tuple[str, list[Any], dict[str, Any]]) -> Any:
    """An edit that adds operators behind the scores: (operator, constants, attributes) each."""

    def edit(graph: onnx.GraphProto) -> None:
        for place, (operator, constants, attributes) in enumerate(steps):
            graph.node[-1].output[0] = f"before_{place}"
            names = [f"constant_{place}_{n}" for n in range(len(constants))]
            graph.initializer.extend(map(numpy_helper.from_array, constants, names))
            graph.node.append(
                helper.make_node(operator, [f"before_{place}", *names], ["scores"], **attributes)
            )

    return edit


SOFTMAX: Any = ("Softmax", [], {"axis": -1})
ENDINGS = {
    "softmax": [SOFTMAX],
    "cast": [SOFTMAX, ("Cast", [], {"to": TensorProto.FLOAT})],
    "clip": [SOFTMAX, ("Clip", [np.float32(0), np.float32(1)], {})],
    "div": [SOFTMAX, ("Div", [np.float32(1)], {})],
    "normalized": [("Exp", [], {}), ("LpNormalization", [], {"axis": -1, "p": 1})],
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_probabilities_are_recognized_by_what_they_are(tmp_path: Path, ending: list[Any]) -> None:
    path = edited(write_classifier(tmp_path / "net.onnx"), append(*ending))
    foreign = ForeignClassifier(path, LABELS, PLAIN)
    assert foreign.scores == "probabilities"
    given = session(path.read_bytes(), "given")
    expected = np.concatenate([given.run(None, {"input": image[None]})[0] for image in images()])
    logits = wrapped(foreign, images())
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(softmax - expected).max() < 1e-5, "no second softmax"


def test_what_the_scores_are_can_be_said(tmp_path: Path) -> None:
    path = edited(write_classifier(tmp_path / "net.onnx"), append(SOFTMAX))
    assert ForeignClassifier(path, LABELS, PLAIN, scores="logits").scores == "logits"
    path = write_classifier(tmp_path / "logits.onnx")
    assert ForeignClassifier(path, LABELS, PLAIN).scores == "logits"
    with pytest.raises(UsageError, match=r"--scores probabilities: its scores go from -?\d.* to "):
        ForeignClassifier(path, LABELS, PLAIN, scores="probabilities")


def test_a_sigmoid_for_each_class_must_be_explained(tmp_path: Path) -> None:
    path = edited(write_classifier(tmp_path / "net.onnx"), append(("Sigmoid", [], {})))
    with pytest.raises(UsageError, match=r"don't sum to 1, .*; say what they are by --scores .* or name"):
        ForeignClassifier(path, LABELS, PLAIN)
    before = ForeignClassifier(path, LABELS, PLAIN, output="before_0")
    assert before.scores == "logits"


def one_score(graph: onnx.GraphProto) -> None:
    """Leave one of the three scores, through a sigmoid."""
    append(("Slice", [np.array([0]), np.array([1]), np.array([1])], {}), ("Sigmoid", [], {}))(graph)
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1


def test_one_score_and_one_label_are_refused(tmp_path: Path) -> None:
    path = edited(write_classifier(tmp_path / "net.onnx"), one_score)
    with pytest.raises(UsageError, match=r"one score, and --labels has one label, .*; give two labels"):
        ForeignClassifier(path, ("cat",), PLAIN)


@pytest.mark.parametrize("output", [None, "before_1"], ids=["sigmoid", "logit"])
def test_one_score_and_two_labels_are_two_classes(tmp_path: Path, output: str | None) -> None:
    path = edited(write_classifier(tmp_path / "net.onnx"), one_score)
    foreign = ForeignClassifier(path, ("no cat", "cat"), PLAIN, output=output)
    assert foreign.scores == ("logits" if output else "probabilities")
    given = session(path.read_bytes(), "given")
    expected = np.concatenate([given.run(None, {"input": image[None]})[0] for image in images()])
    for logits in (wrapped(foreign, images()), foreign.classify(images())):
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert np.abs(softmax[:, 1:] - expected).max() < 1e-5
        assert softmax.shape == (6, 2)


@pytest.mark.parametrize(
    ("steps", "operator"),
    [
        ([("ArgMax", [], {"axis": 1})], "ArgMax"),
        ([("TopK", [np.array([1])], {})], "TopK"),
    ],
)
def test_class_numbers_are_no_scores(tmp_path: Path, steps: list[Any], operator: str) -> None:
    def edit(graph: onnx.GraphProto) -> None:
        append(*steps)(graph)
        if operator == "TopK":
            graph.node[-1].output.append("places")
        else:
            graph.output[0].type.tensor_type.elem_type = TensorProto.INT64

    path = edited(write_classifier(tmp_path / "net.onnx"), edit)
    complaint = rf"'scores' is made by {operator}: .*; name the value .*: --output before_0"
    with pytest.raises(UsageError, match=complaint):
        ForeignClassifier(path, LABELS, PLAIN)
    plain = ForeignClassifier(write_classifier(tmp_path / "plain.onnx"), LABELS, PLAIN)
    chosen = ForeignClassifier(path, LABELS, PLAIN, output="before_0")
    assert np.array_equal(chosen.classify(images()), plain.classify(images()))
    assert chosen.says["output"] == "before_0"


def test_one_of_two_outputs_is_chosen_by_name(tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "net.onnx", outputs=2)
    assert ForeignClassifier(path, LABELS, PLAIN, output="scores").classify(images()).shape == (6, 3)
    with pytest.raises(UsageError, match=r"--output none: .* has no such value; its outputs: 'scores', '/f'"):
        ForeignClassifier(path, LABELS, PLAIN, output="none")


def in_half(graph: onnx.GraphProto) -> None:
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            weight.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name)
            )
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16


def in_double(graph: onnx.GraphProto) -> None:
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            weight.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float64), weight.name)
            )
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE


def half_weights(graph: onnx.GraphProto) -> None:
    """FP16 in the file, cast to FP32 before use, as some converters store weights."""
    casts = []
    for weight in graph.initializer:
        if len(weight.dims) > 1:
            half = numpy_helper.to_array(weight).astype(np.float16)
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@pytest.mark.parametrize("edit", [in_half, in_double, half_weights], ids=lambda edit: edit.__name__)
def test_other_floats_become_float32_and_can_be_quantized(tmp_path: Path, edit: Any) -> None:
    plain = ForeignClassifier(write_classifier(tmp_path / "plain.onnx"), LABELS, PLAIN)
    foreign = ForeignClassifier(edited(write_classifier(tmp_path / "net.onnx"), edit), LABELS, PLAIN)
    expected = plain.classify(images())
    assert np.abs(wrapped(foreign, images()) - expected).max() < 0.02 * expected.std()
    model = onnx.load_model_from_string(foreign.engine_bytes("classifier-00"))
    assert {weight.data_type for weight in model.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    assert len(quantizable(model)) == 2, "the convolution and the last layer"
    assert any("became float32" in note for note in foreign.notes)


def test_an_integer_image_becomes_a_float_one(tmp_path: Path) -> None:
    def edit(graph: onnx.GraphProto) -> None:
        graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
        cast = helper.make_node("Cast", ["input"], ["floats"], to=TensorProto.FLOAT)
        graph.node[0].input[0] = "floats"
        nodes = [cast, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)

    path = edited(write_classifier(tmp_path / "net.onnx", white=255), edit)
    with pytest.raises(UsageError, match=r"an image of uint8, whose white is 255; give --range 255"):
        ForeignClassifier(path, LABELS, PLAIN)
    foreign = ForeignClassifier(path, LABELS, TO_255)
    pixels = np.rint(images() * 255)
    given = session(path.read_bytes(), "given")
    rows = [given.run(None, {"input": image[None].astype(np.uint8)})[0] for image in pixels]
    found = wrapped(foreign, (pixels / 255).astype(np.float32))
    assert np.abs(found - np.concatenate(rows)).max() < 1e-3


@pytest.mark.parametrize("end", ["", "Reshape"])
def test_a_batch_becomes_one_image(tmp_path: Path, end: str) -> None:
    path = write_classifier(tmp_path / "net.onnx", shape=[8, 3, 16, 16], end=end)
    if end:  # a shape that was exported with the batch in it

        def edit(graph: onnx.GraphProto) -> None:
            for weight in graph.initializer:
                if weight.name == "/model/Reshape":
                    weight.CopyFrom(numpy_helper.from_array(np.array([8, 3]), weight.name))

        edited(path, edit)
    plain = ForeignClassifier(write_classifier(tmp_path / "plain.onnx"), LABELS, PLAIN)
    foreign = ForeignClassifier(path, LABELS, PLAIN)
    assert np.allclose(wrapped(foreign, images()), plain.classify(images()), atol=1e-5)
    assert foreign.notes == ["a batch of 8 became one image"]


def test_sides_of_minus_one_as_paddle_writes_them_are_closed_by_the_size(tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "net.onnx", shape=[-1, 3, -1, -1])
    with pytest.raises(UsageError, match="--image-size"):
        ForeignClassifier(path, LABELS, PLAIN)
    foreign = ForeignClassifier(path, LABELS, PLAIN, image_size=(16, 16))
    plain = ForeignClassifier(write_classifier(tmp_path / "plain.onnx"), LABELS, PLAIN)
    assert np.allclose(wrapped(foreign, images()), plain.classify(images()), atol=1e-5)


def test_a_batch_that_mixes_its_images_is_refused(tmp_path: Path) -> None:
    def edit(graph: onnx.GraphProto) -> None:
        append(("Reshape", [np.array([3, 8])], {}), ("Transpose", [], {"perm": [1, 0]}))(graph)

    path = edited(write_classifier(tmp_path / "net.onnx", shape=[8, 3, 16, 16]), edit)
    with pytest.raises((UsageError, ExportError), match="export it for one float32 image"):
        ForeignClassifier(path, LABELS, PLAIN)


def test_a_quantized_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    path = write_classifier(tmp_path / "net.onnx")
    quantize_dynamic(path, tmp_path / "quantized.onnx")
    with pytest.raises(UsageError, match=r"quantized already .*; give the float model .* --precision int8"):
        ForeignClassifier(tmp_path / "quantized.onnx", LABELS, PLAIN)


def break_pad(model: onnx.ModelProto) -> onnx.ModelProto:
    """A simplifier that folds a Pad into the wrong axes."""
    for node in model.graph.node:
        if node.op_type == "Conv":
            for attribute in node.attribute:
                if attribute.name == "pads":
                    attribute.ints[:] = [2, 0, 0, 2]
    return model


@pytest.mark.parametrize("how", ["wrong", "raises"])
def test_a_simplifier_that_errs_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def fail(model: onnx.ModelProto) -> onnx.ModelProto:
        raise RuntimeError("no such pattern")

    monkeypatch.setattr(onnxslim, "slim", break_pad if how == "wrong" else fail)
    foreign = ForeignClassifier(write_classifier(tmp_path / "net.onnx"), LABELS, PLAIN)
    assert np.allclose(wrapped(foreign, images()), foreign.classify(images()), atol=1e-5)
    assert len(foreign.notes) == 1
    assert foreign.notes[0].startswith("simplifying the graph ")
    assert foreign.notes[0].endswith("so it is kept as it is")


def test_a_wrapped_bundle_has_its_own_name_and_no_figure_of_another_classifier(
    exported: Path, tmp_path: Path
) -> None:
    path = write_classifier(tmp_path / "my-net.onnx")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    out = tmp_path / "out"
    made = run("bundle", exported, out, "--classifier-onnx", path, "--labels", tmp_path / "labels.txt")
    assert made.exit_code == 0, made.output
    manifest = Bundle.open(out).manifest
    assert manifest.name == "my-net"
    assert "validation_accuracy" not in str(manifest.provenance)
    assert manifest.provenance["purifiers_from"]["name"] == "tiny"
    card = (out / "MODEL_CARD.md").read_text()
    assert card.startswith("# my-net\n")
    assert "0.25" not in card, "the accuracy of the purifiers' own classifier"


def test_the_options_reach_the_classifier(exported: Path, tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "net.onnx", shape=[1, 3, "h", "w"], outputs=2)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    given = ("bundle", exported, tmp_path / "out", "--classifier-onnx", path)
    given = (*given, "--labels", tmp_path / "labels.txt", "--output", "scores")
    for size in ("16", "16,x", "0,16", "16,99999"):
        assert_one_line(
            run(*given, "--image-size", size), 2, f"--image-size {size}: expected height and width"
        )
    made = run(*given, "--image-size", "18,20", "--scores", "logits")
    assert made.exit_code == 0, made.output
    assert "the scores are the value 'scores'" in made.stderr
    manifest = Bundle.open(tmp_path / "out").manifest
    assert (manifest.image.height, manifest.image.width) == (18, 20)
    assert manifest.provenance["foreign_classifier"]["scores"] == "logits"
