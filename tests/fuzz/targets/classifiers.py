"""ONNX files given as one's own classifier: mutated bytes, and graphs put together at random."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.external_classifier.classifier import ForeignClassifier
from export.external_classifier.conventions import Conventions
from tests.fuzz import bar
from tests.fuzz.inputs import mutated, texts

LABELS = ("a", "b", "c", "d")
OPERATORS = (
    "Relu", "Flatten", "GlobalAveragePool", "Gemm", "Softmax", "Sigmoid", "Add", "MatMul", "Conv", "Reshape",
    "Transpose", "ArgMax", "TopK", "Cast", "Identity", "Squeeze", "Loop", "If", "Unknown",
    "QuantizeLinear", "",
)  # fmt: skip


def sound(shape: tuple[int | str, ...] = (1, 3, 8, 8)) -> bytes:
    """The mean colour, times a matrix."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["scores"]),
    ]
    weight = numpy_helper.from_array(np.eye(3, 4, dtype=np.float32), "weight")
    graph = helper.make_graph(
        nodes,
        "sound",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def prepare(folder: Path, stack: ExitStack) -> list[bytes]:
    return [sound(), sound(("N", 3, 8, 8)), sound((2, 3, 8, 8)), sound((1, 3, "H", "W"))]


@st.composite
def graphs(draw: st.DrawFn) -> bytes:
    """A chain of operators with inputs and sizes that need not fit."""
    size = st.sampled_from([-1, 0, 1, 3, 4, 8, 2**31])
    shape = draw(st.lists(size, max_size=5))
    names = ["image", "w", "i", ""]
    nodes = []
    for place in range(draw(st.integers(0, 5))):
        operator = draw(st.sampled_from(OPERATORS))
        inputs = draw(st.lists(st.sampled_from(names), max_size=3))
        attributes = draw(
            st.dictionaries(
                st.sampled_from(["axis", "keepdims", "to", "perm"]), st.integers(-3, 40), max_size=2
            )
        )
        nodes.append(helper.make_node(operator, inputs, [f"v{place}"], **attributes))
        names.append(f"v{place}")
    weights = [
        numpy_helper.from_array(np.ones(draw(st.lists(st.integers(0, 5), max_size=4)), np.float32), "w"),
        numpy_helper.from_array(np.array(draw(st.lists(st.integers(-2, 9), max_size=4)), np.int64), "i"),
    ]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("image", draw(st.sampled_from([1, 2, 7, 10, 11])), shape)],
        [helper.make_tensor_value_info(draw(st.sampled_from(names)), 1, None)],
        weights,
    )
    opsets = [
        helper.make_opsetid(draw(st.sampled_from(["", "", "ai.onnx.ml", "x"])), draw(st.integers(0, 30)))
    ]
    return bytes(
        helper.make_model(
            graph, opset_imports=opsets, ir_version=draw(st.integers(1, 12))
        ).SerializeToString()
    )


def attempt(data: st.DataObject, shared: list[bytes], folder: Path) -> None:
    made = st.one_of(mutated(shared), mutated(shared), graphs(), st.binary(max_size=100))
    path = folder / "classifier.onnx"
    path.write_bytes(data.draw(made, "file"))
    size = data.draw(st.sampled_from([None, None, (8, 8), (1, 1)]))
    output = data.draw(st.one_of(st.none(), st.none(), st.sampled_from(["scores", "flat", "v0"]), texts))
    labels = LABELS[: data.draw(st.sampled_from([4, 4, 4, 2, 1]))]
    with bar.held(folder):
        classifier = ForeignClassifier(path, labels, Conventions(), image_size=size, output=output)
        onnx.checker.check_model(onnx.load_model_from_string(classifier.engine_bytes("classifier-00")))
