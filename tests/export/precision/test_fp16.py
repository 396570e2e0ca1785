"""FP16 engines: half precision by casts, FP32 at the ends and where half precision would lose the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.precision.fp16 import halve
from export.precision.ranges import session
from export.torch_to_onnx import engine_bytes
from sdk.bundle import Bundle
from tests.export.tensorrt.helpers import build_size_bytes
from trainer import models
from trainer.config import MaepModel, RenModel

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@pytest.fixture(params=["lowered", "maep_lowered"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(request.getfixturevalue(request.param))


def engines(bundle: Bundle, precision: Any) -> dict[str, bytes]:
    manifest = bundle.manifest
    return {engine.id: bundle.path(engine.onnx[precision]).read_bytes() for engine in manifest.engines}


def graph_of(
    nodes: list[onnx.NodeProto], weights: dict[str, Any], shape: tuple[int, ...] = (1, 3, 8, 8)
) -> bytes:
    """A one-input engine, image -> purified, of named nodes."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "purified")]
    constants = [
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()
    ]
    graph = helper.make_graph(nodes, "purifier-00", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def run(data: bytes, image: np.ndarray) -> np.ndarray:
    return session(data, "test").run(None, {"image": image})[0]


def test_ends_are_fp32_and_every_large_weight_is_fp16(bundle: Bundle) -> None:
    for name, data in engines(bundle, "fp16").items():
        graph = onnx.load_model_from_string(data).graph
        ends = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        assert {kind for end, kind in ends.items() if end != "keep"} == {TensorProto.FLOAT}, name
        layers = {node.input[1] for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")}
        kinds = {weight.data_type for weight in graph.initializer if weight.name in layers}
        assert kinds == {TensorProto.FLOAT16}, name


def test_header_is_pinned_and_nothing_tells_of_the_making(bundle: Bundle) -> None:
    for precision in ("fp16", "int8"):
        for name, data in engines(bundle, precision).items():
            model = onnx.load_model_from_string(data)
            assert (model.ir_version, model.producer_name, model.graph.name) == (10, "edge-purify", name)
            assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
            assert b"site-packages" not in data
            assert not [node for node in model.graph.node if node.doc_string or node.metadata_props]


@pytest.mark.parametrize("operator", ["Softmax", "LayerNormalization"])
def test_softmax_and_layer_norm_compute_in_fp32(maep_lowered: Path, operator: str) -> None:
    data = engines(Bundle.open(maep_lowered), "fp16")["purifier-00"]
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data), strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    found = {kinds[node.output[0]] for node in graph.node if node.op_type == operator}
    assert found == {TensorProto.FLOAT}


def test_the_contrast_of_a_purifier_computes_in_fp32(lowered: Path) -> None:
    data = engines(Bundle.open(lowered), "fp16")["purifier-00"]
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data), strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    for operator in ("Pow", "ReduceMean", "Sqrt", "Div"):
        assert {kinds[node.output[0]] for node in graph.node if node.op_type == operator} == {
            TensorProto.FLOAT
        }


def test_an_epsilon_that_fp16_has_no_room_for_stays_in_fp32() -> None:
    data = graph_of(
        [
            helper.make_node("Mul", ["image", "small"], ["scaled"], name="Mul_0"),
            helper.make_node("Add", ["scaled", "eps"], ["safe"], name="Add_0"),
            helper.make_node("Div", ["image", "safe"], ["purified"], name="Div_0"),
        ],
        {"small": 1.0, "eps": 1e-9},
    )
    assert np.isfinite(run(halve(data), np.full((1, 3, 8, 8), 0.5, np.float32))).all()
    model = onnx.load_model_from_string(halve(data))
    eps = next(weight for weight in model.graph.initializer if weight.name == "eps")
    assert eps.data_type == TensorProto.FLOAT


def test_nodes_whose_values_would_overflow_stay_in_fp32_where_calibration_saw_them() -> None:
    """By type, not by value: on a CPU ONNX Runtime computes such a convolution in FP32 anyway."""
    names = ("image", "a", "b", "purified")
    data = graph_of(
        [
            helper.make_node("Conv", [names[n], "w"], [names[n + 1]], name=f"Conv_{n}")
            for n in range(len(names) - 1)
        ],
        {"w": np.eye(3)[:, :, None, None]},
    )

    def weights_of(made: bytes) -> list[str]:
        nodes = onnx.load_model_from_string(made).graph.node
        return [node.input[1] for node in nodes if node.op_type == "Conv"]

    assert weights_of(halve(data, {"b": 30_000.0})) == ["w_half"] * 3
    assert weights_of(halve(data, {"b": 40_000.0})) == ["w_half", "w", "w"]  # its maker and its taker


def test_a_constant_that_fp32_and_fp16_nodes_share_is_there_in_both() -> None:
    data = graph_of(
        [
            helper.make_node("Add", ["image", "c"], ["a"], name="Add_0"),
            helper.make_node("Max", ["a", "c"], ["purified"], name="Max_0"),
        ],
        {"c": np.full((1, 3, 1, 1), 0.25)},
    )
    made = onnx.load_model_from_string(halve(data)).graph
    assert sorted(weight.data_type for weight in made.initializer) == sorted(FLOATS)
    image = np.linspace(-1, 1, 192, dtype=np.float32).reshape(1, 3, 8, 8)
    assert np.allclose(run(halve(data), image), run(data, image), atol=1e-3)


def test_converting_twice_gives_the_same_bytes(bundle: Bundle) -> None:
    data = engines(bundle, "fp32")["purifier-00"]
    assert halve(data) == halve(data)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_builds_every_engine(bundle: Bundle, precision: str) -> None:
    for data in engines(bundle, precision).values():
        assert build_size_bytes(data) > 0


@pytest.mark.parametrize("model", [RenModel(), MaepModel()], ids=["ren", "maep"])
def test_size_of_an_edge_defence(model: Any) -> None:
    """Its files together are at most 0.55 of FP32's in FP16, and 0.40 in INT8."""
    from export.precision.int8 import quantizable, quantize

    defence = models.build(model).eval()
    image = {"image": torch.rand(1, 3, 32, 32)}
    subset = defence.random_input.draw(1, torch.Generator().manual_seed(0))
    random_input = {defence.random_input.name: subset}
    purifier = engine_bytes(
        defence.single_purifier(0), image | random_input, output="purified", name="purifier-00"
    )
    classifier = engine_bytes(defence.single_classifier(0), image, output="logits", name="classifier-00")
    sizes = []
    for convert in (lambda data: data, halve, lambda data: quantize(data, ones(quantizable, data))):
        purifiers = defence.n_purifiers * len(convert(purifier))
        sizes.append(purifiers + defence.n_classifiers * len(convert(classifier)))
    fp32, fp16, int8 = sizes
    assert fp16 <= 0.55 * fp32
    assert int8 <= 0.40 * fp32


def ones(quantizable: Any, data: bytes) -> dict[str, float]:
    activations = quantizable(onnx.load_model_from_string(data)).values()
    return {value: 1.0 for values in activations for value in values}
