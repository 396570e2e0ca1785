"""INT8 engines: Q/DQ around the layers that carry the arithmetic, chosen by measured error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.inputs.calibration import engine_feeds, self_made_images
from export.precision import search as searching
from export.precision.int8 import quantizable, quantize
from export.precision.layers import worst_layers
from export.precision.ranges import METHODS, Ranges, session
from export.precision.search import search
from sdk.bundle import Bundle
from sdk.host.hardware import has_exact_int8
from tests.export.precision.test_fp16 import engines, graph_of, run
from tests.export.rejected import rejected_graph
from tests.export.tensorrt.helpers import build_size_bytes

SIDE = 16


@pytest.fixture(params=["lowered", "maep_lowered"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(request.getfixturevalue(request.param))


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {value: node for node in graph.node for value in node.output}


def test_layers_take_dequantized_values_and_weights_and_nothing_else_is_quantized(bundle: Bundle) -> None:
    for name, data in engines(bundle, "int8").items():
        graph = onnx.load_model_from_string(data).graph
        maker = producers(graph)
        weights = {weight.name: weight for weight in graph.initializer}
        takers = {value: node for node in graph.node for value in node.input}
        layers = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")]
        additions = [
            node
            for node in graph.node
            if node.op_type == "Add"
            and all(v in maker and maker[v].op_type == "DequantizeLinear" for v in node.input)
        ]
        assert bool(additions) == name.startswith("classifier")
        for layer in layers:
            activation, weight = (maker[value] for value in layer.input[:2])
            assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear"), name
            assert maker[activation.input[0]].op_type == "QuantizeLinear"
            assert weights[weight.input[0]].data_type == TensorProto.INT8
            if len(layer.input) == 3:
                assert weights[layer.input[2]].data_type == TensorProto.FLOAT, "the bias"
        for node in graph.node:
            if node.op_type == "DequantizeLinear":
                assert takers[node.output[0]] in [*layers, *additions]


def test_codes_are_symmetric_and_weights_have_a_scale_for_each_output_channel(lowered: Path) -> None:
    graph = onnx.load_model_from_string(engines(Bundle.open(lowered), "int8")["classifier-00"]).graph
    weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    assert {int(weights[node.input[2]]) for node in graph.node if node.op_type == "QuantizeLinear"} == {0}
    maker = producers(graph)
    for layer in graph.node:
        if layer.op_type == "Conv":
            codes, scale = (weights[value] for value in maker[layer.input[1]].input[:2])
            assert scale.shape == codes.shape[:1]
            assert (np.abs(codes.reshape(len(codes), -1)).max(axis=1) == 127).all()


def test_a_weight_that_a_convolution_and_a_transposed_one_share_is_quantized_for_each(lowered: Path) -> None:
    """Along one axis for both, the graph would build in TensorRT and fail where it is run."""
    both = (
        engines(Bundle.open(lowered), "fp32")["purifier-00"],
        engines(Bundle.open(lowered), "int8")["purifier-00"],
    )
    before, after = (onnx.load_model_from_string(data).graph for data in both)
    assert len({node.input[1] for node in before.node if "Conv" in node.op_type}) == 1
    maker = producers(after)
    axes = {
        (node.op_type, maker[node.input[1]].input[0], maker[node.input[1]].attribute[0].i)
        for node in after.node
        if "Conv" in node.op_type
    }
    assert axes == {("Conv", "atoms_axis0_q", 0), ("ConvTranspose", "atoms_axis1_q", 1)}


def test_products_of_two_activations_are_left_alone(maep_lowered: Path) -> None:
    data = engines(Bundle.open(maep_lowered), "fp32")["purifier-00"]
    model = onnx.load_model_from_string(data)
    products = [node.name for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 4
    assert set(quantizable(model)).isdisjoint(products)


@pytest.mark.parametrize(
    ("operator", "weight", "attributes"),
    [
        ("Gemm", (6, 5), {"transB": 1}),
        ("Gemm", (5, 6), {}),
        ("MatMul", (5, 6), {}),
    ],
)
def test_linear_layers_are_quantized_along_their_outputs(
    operator: str, weight: tuple[int, int], attributes: dict[str, int]
) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=weight) * (10.0 ** np.arange(6)).reshape((6, 1) if attributes else (1, 6))
    nodes = [helper.make_node(operator, ["image", "w"], ["purified"], name="layer", **attributes)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, width])
        for name, width in (("image", 5), ("purified", 6))
    ]
    constants = [numpy_helper.from_array(values.astype(np.float32), "w")]
    graph = helper.make_graph(nodes, "linear", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data = bytes(model.SerializeToString())
    image = rng.uniform(-1, 1, (4, 5)).astype(np.float32)
    expected, found = run(data, image), run(quantize(data, {"image": 1.0}), image)
    off = np.abs(found - expected).max(axis=0) / np.abs(expected).max(axis=0)
    assert off.max() < 0.03, "a single scale would lose the outputs of small weights"


def test_grouped_transposed_convolutions_share_one_scale_and_run() -> None:
    rng = np.random.default_rng(0)
    data = graph_of(
        [helper.make_node("ConvTranspose", ["image", "w"], ["purified"], name="ConvTranspose_0", group=3)],
        {"w": rng.normal(size=(3, 1, 1, 1))},
    )
    image = rng.uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)
    assert np.allclose(run(quantize(data, {"image": 1.0}), image), run(data, image), atol=0.02)


def test_a_weight_of_zeros_stays_zero() -> None:
    data = graph_of(
        [helper.make_node("Conv", ["image", "w"], ["purified"], name="Conv_0")], {"w": np.zeros((3, 3, 1, 1))}
    )
    assert not run(quantize(data, {"image": 0.0}), np.ones((1, 3, 8, 8), np.float32)).any()


def test_the_method_with_the_least_error_is_taken_and_recorded(lowered: Path) -> None:
    recorded = Bundle.open(lowered).manifest.provenance["precisions"]["int8"]
    assert recorded["calibrated_on"] == "160 self-made pictures"
    for engine in recorded["engines"].values():
        errors = engine["error_by_method"]
        assert set(errors) == set(METHODS)
        assert errors[engine["method"]] == min(errors.values())
        assert engine["excluded_layers"] == [] or engine["error"] < min(errors.values())


def test_an_outlier_is_cut_off_by_percentile_and_entropy_and_kept_by_minmax() -> None:
    rng = np.random.default_rng(0)
    data = graph_of(
        [helper.make_node("Conv", ["image", "w"], ["purified"], name="Conv_0")],
        {"w": np.eye(3)[:, :, None, None]},
    )
    images = rng.normal(0, 0.1, (400, 1, 3, 8, 8)).astype(np.float32)
    images[0, 0, 0, 0, 0] = 50.0
    ranges = Ranges(data, [{"image": image} for image in images], ["image"])
    assert ranges.by("minmax")["image"] == 50.0
    assert ranges.by("percentile")["image"] < 1.0
    assert ranges.by("entropy")["image"] < 10.0


def test_the_layer_that_harms_is_found_and_left_in_fp32() -> None:
    """One channel of the second layer's input is a thousand times the others, which INT8 then loses."""
    rng = np.random.default_rng(0)
    loud = np.eye(3)[:, :, None, None] * np.array([1000, 1, 1])[:, None, None, None]
    quiet = np.eye(3)[:, :, None, None] / np.array([1000, 1, 1])[None, :, None, None]
    mixing = rng.normal(size=(3, 3, 1, 1))
    layers = {"first": mixing, "loud": loud, "quiet": quiet, "last": mixing}
    values = ["image", "a", "b", "c", "purified"]
    data = graph_of(
        [
            helper.make_node("Conv", [values[place], name], [values[place + 1]], name=name)
            for place, name in enumerate(layers)
        ],
        layers,
    )
    feeds = [{"image": rng.uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(24)]
    found = search(data, feeds[:16], feeds[16:])
    assert found.excluded == ("quiet",)
    assert found.error <= searching.AIM < min(found.errors.values())
    worst = worst_layers(quantize(data, Ranges(data, feeds).by("minmax")), data, feeds)
    assert worst[0][0] in ("quiet", "last")
    assert worst[0][1] > 10 * worst[-1][1]


def test_every_engine_runs_fused_or_not(lowered: Path) -> None:
    bundle = Bundle.open(lowered)
    images = self_made_images(bundle.manifest, 4)
    for engine in bundle.manifest.engines:
        for file in (engine.graph("int8", "gpu"), engine.graph("int8", "cpu")):
            fused = onnxruntime.InferenceSession(bundle.read(file), providers=["CPUExecutionProvider"])
            exact = session(bundle.read(file), engine.id)
            for feed in engine_feeds(bundle.manifest, engine, images):
                found, expected = (one.run(None, feed)[0] for one in (fused, exact))
                assert np.isfinite(found).all()
                if has_exact_int8():  # elsewhere, fused kernels may saturate
                    assert np.abs(found - expected).mean() <= 0.05 * expected.std()


def test_tensorrt_rejects_a_quantized_constant_that_is_no_weight(tmp_path: Path) -> None:
    rejected_graph(tmp_path / "rejected.onnx")
    assert build_size_bytes((tmp_path / "rejected.onnx").read_bytes()) == 0
