"""INT8 for CPUs: unsigned asymmetric codes, integer kernels from end to end, purifiers in float."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.precision.int8_cpu import quantizable, quantize
from export.precision.ranges import session
from export.precision.search import CPU, TENSORRT, search
from sdk.backends import open_backend
from sdk.backends.golden import Golden, replay
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import Bundle, Precision
from sdk.errors import GateError
from tests.export.precision.test_fp16 import graph_of, run


@pytest.fixture(scope="module")
def graph(lowered: Path) -> onnx.GraphProto:
    bundle = Bundle.open(lowered)
    return onnx.load_model_from_string(bundle.read(bundle.manifest.classifiers[0].cpu["int8"])).graph


def test_activations_are_unsigned_and_the_lowest_code_after_a_rectifier_is_zero(
    graph: onnx.GraphProto,
) -> None:
    values = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    maker = {value: node for node in graph.node for value in node.output}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert pairs
    for pair in pairs:
        zero = values[pair.input[2]]
        assert zero.dtype == np.uint8
        if maker[pair.input[0]].op_type == "Relu":
            assert zero == 0
    assert any(values[pair.input[2]] > 0 for pair in pairs), "what convolutions make has both signs"


def test_weights_have_a_scale_for_each_channel_and_biases_the_accumulators(graph: onnx.GraphProto) -> None:
    values = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    maker = {value: node for node in graph.node for value in node.output}
    for layer in graph.node:
        if layer.op_type == "Conv":
            (codes, step), (bias, bias_step) = (
                [values[name] for name in maker[value].input[:2]] for value in layer.input[1:]
            )
            activation_step = values[maker[layer.input[0]].input[1]]
            assert (codes.dtype, bias.dtype) == (np.int8, np.int32)
            assert step.shape == codes.shape[:1]
            assert np.allclose(bias_step, step * activation_step)


def test_every_convolution_and_addition_gets_an_integer_kernel(lowered: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(lowered)
    engine = bundle.manifest.classifiers[0]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(bundle.read(engine.cpu["int8"]), options, providers=["CPUExecutionProvider"])
    before = Counter(
        node.op_type for node in onnx.load_model_from_string(bundle.read(engine.onnx["fp32"])).graph.node
    )
    after = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert (after["QLinearConv"], after["QLinearAdd"]) == (before["Conv"], before["Add"])
    assert not {"Conv", "Add", "Relu"} & after.keys()


def test_purifiers_stay_in_float_and_a_bundle_from_before_runs_its_only_graph(lowered: Path) -> None:
    bundle = Bundle.open(lowered)
    manifest = bundle.manifest
    assert [one.cpu["int8"] for one in manifest.purifiers] == [one.onnx["fp32"] for one in manifest.purifiers]
    before = tuple(msgspec.structs.replace(engine, cpu={}) for engine in manifest.classifiers)
    for engine, old in zip(manifest.classifiers, before, strict=True):
        assert engine.graph("int8", "cpu") == engine.cpu["int8"] != engine.graph("int8", "gpu")
        assert old.graph("int8", "cpu") == engine.onnx["int8"]


def test_onnxruntime_on_a_cpu_runs_the_graph_for_cpus(lowered: Path) -> None:
    bundle = Bundle.open(lowered)
    image = np.random.default_rng(0).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)
    found = open_backend(bundle, "onnxruntime", "int8")
    engine = bundle.manifest.classifiers[0]
    by_kind = {
        kind: session(bundle.read(engine.graph("int8", kind)), engine.id).run(None, {"image": image})[0]
        for kind in ("gpu", "cpu")
    }
    off = {kind: np.abs(found.classify(0, image) - by_kind[kind]).max() for kind in by_kind}
    assert (found.graphs, off["cpu"] < off["gpu"]) == ("cpu", True)


def test_openvino_runs_the_graph_for_cpus(lowered: Path) -> None:
    bundle = Bundle.open(lowered)
    found = open_backend(bundle, "openvino", "int8")
    assert found.graphs == "cpu"
    assert not [off.complaint for off in replay(bundle, found, Golden.load(bundle)) if off.complaint]


def test_without_exact_products_it_runs_unoptimized(lowered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(lowered)
    monkeypatch.setattr("sdk.backends.onnxruntime.has_exact_int8", lambda: False)
    exact = OnnxRuntimeBackend(bundle, "int8")
    image = np.random.default_rng(0).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)
    data = bundle.read(bundle.manifest.classifiers[0].cpu["int8"])
    expected = session(data, "classifier").run(None, {"image": image})[0]
    assert np.array_equal(exact.classify(0, image), expected)


def test_it_is_verified_and_recorded_beside_tensorrts(lowered: Path) -> None:
    bundle = Bundle.open(lowered)
    recorded = bundle.manifest.provenance["precisions"]["int8"]
    for engine in bundle.manifest.classifiers:
        cpu = recorded["cpu"]["engines"][engine.id]
        assert cpu["quantized"][0] == cpu["quantized"][1] - len(cpu["excluded_layers"])
        assert recorded["cpu"]["parity"][engine.id]["top1"] >= 0.9
        assert recorded["cpu"]["parity"][engine.id] != recorded["parity"][engine.id]
    assert "INT8 on CPUs" in (lowered / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("bias", [0.3, 1e-6, 0.0])
def test_a_channel_without_weights_keeps_its_bias(bias: float) -> None:
    data = graph_of(
        [helper.make_node("Conv", ["image", "w", "b"], ["purified"], name="Conv_0")],
        {"w": np.zeros((3, 3, 1, 1)), "b": np.full(3, bias)},
    )
    made = quantize(data, {"image": (0.0, 1.0)})
    assert np.allclose(run(made, np.ones((1, 3, 8, 8), np.float32)), bias, rtol=1e-5, atol=1e-12)


def test_a_rectifier_that_others_see_too_is_not_absorbed() -> None:
    """The convolution's own output feeds an addition as well: then both are quantized."""
    rng = np.random.default_rng(0)
    data = graph_of(
        [
            helper.make_node("Conv", ["image", "v"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("Conv", ["b", "w"], ["c"], name="second"),
            helper.make_node("Add", ["a", "c"], ["purified"], name="residual"),
        ],
        {"v": rng.normal(size=(3, 3, 1, 1)), "w": rng.normal(size=(3, 3, 1, 1))},
    )
    model = onnx.load_model_from_string(data)
    assert quantizable(model) == {"first": ("image", "a"), "second": ("b", "c"), "residual": ("a", "c")}
    feeds = [{"image": rng.uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(20)]
    assert search(data, feeds[:16], feeds[16:], CPU).error < 0.05


@pytest.mark.parametrize("scheme", [CPU, TENSORRT])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_an_engine_without_a_weight_to_quantize_is_refused(scheme: object, dtype: int) -> None:
    """A product whose second factor is computed, or cast from another type, is no INT8 layer."""
    values = np.random.default_rng(0).normal(size=(3, 3, 1, 1))
    nodes = [
        helper.make_node("Cast", ["stored"], ["w"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Identity", ["w"], ["v"], name="same"),
        helper.make_node("Conv", ["image", "v"], ["purified"], name="Conv_0"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in ("image", "purified")]
    stored = numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(dtype)), "stored")
    made = helper.make_graph(nodes, "folded", ends[:1], ends[1:], [stored])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    feeds = [{"image": np.ones((1, 3, 8, 8), np.float32)}]
    with pytest.raises(GateError, match="folded: 0 of its 1 products with weights") as caught:
        search(model.SerializeToString(), feeds, feeds, scheme)
    assert "float32 weights" in caught.value.hint


@pytest.mark.parametrize("scheme", [CPU, TENSORRT])
def test_weights_that_a_file_stores_in_half_precision_are_quantized(scheme: object) -> None:
    values = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["stored"], ["w"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["image", "w"], ["purified"], name="Conv_0"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in ("image", "purified")]
    made = helper.make_graph(nodes, "half", ends[:1], ends[1:], [numpy_helper.from_array(values, "stored")])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    rng = np.random.default_rng(1)
    feeds = [{"image": rng.uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(20)]
    found = search(model.SerializeToString(), feeds[:16], feeds[16:], scheme)
    assert (found.n_quantized, found.n_products) == (1, 1)
    stored = {one.data_type for one in onnx.load_model_from_string(found.data).graph.initializer}
    assert TensorProto.INT8 in stored
    assert TensorProto.FLOAT16 not in stored


def test_the_precisions_of_a_bundle_are_those_that_all_engines_have(lowered: Path) -> None:
    expected: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    assert Bundle.open(lowered).manifest.precisions == expected
