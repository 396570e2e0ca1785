"""An engine's graph in torch: ONNX Runtime's values forward, straight-through backward, one clear refusal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from export.torch_to_onnx import IR_VERSION, OPSET
from sdk.errors import BackendError, BundleError
from trainer.models.onnx_graph import OPERATORS, FakeQuantize, OnnxGraph

SHAPE = (1, 4, 6, 6)
STEP = 1 / 64  # a power of two, so that halves of a step are exact


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def write(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    """A graph from x, ``SHAPE``, to y."""
    graph = helper.make_graph(
        nodes,
        "engine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), path)
    return path


def one_node(path: Path, operator: str, inputs: list[np.ndarray | None], attributes: dict[str, Any]) -> Path:
    """A graph of one node that takes x, and constants after it."""
    names = ["x", *("" if value is None else f"c{place}" for place, value in enumerate(inputs))]
    constants = {f"c{place}": value for place, value in enumerate(inputs) if value is not None}
    return write(path, [helper.make_node(operator, names, ["y"], name="node", **attributes)], constants)


def by_onnxruntime(path: Path, images: Tensor) -> Tensor:
    """Row by row, as an engine runs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.stack([session.run(None, {"x": image[None].numpy()})[0] for image in images]))


ALL = integers(0, 1, 2, 3)
OPERATOR_CASES: list[tuple[str, list[np.ndarray | None], dict[str, Any]]] = [
    ("Add", [numbers(1, 4, 1, 1)], {}),
    ("Sub", [numbers(4, 1, 1)], {}),
    ("Mul", [scalar(0.3)], {}),
    ("Div", [scalar(0.3)], {}),
    ("Max", [numbers(1, 4, 1, 1)], {}),
    ("Min", [numbers(1, 4, 1, 1)], {}),
    ("Pow", [scalar(2)], {}),
    ("Clip", [scalar(-0.2), scalar(0.4)], {}),
    ("Clip", [None, scalar(0.4)], {}),
    ("Relu", [], {}),
    ("Erf", [], {}),
    ("Identity", [], {}),
    ("Softmax", [], {}),
    ("Softmax", [], {"axis": 1}),
    ("MatMul", [numbers(6, 5)], {}),
    ("Conv", [numbers(8, 4, 3, 3), numbers(8)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", [numbers(8, 2, 3, 3)], {"pads": [0, 1, 2, 0], "group": 2, "dilations": [2, 2]}),
    ("ConvTranspose", [numbers(4, 3, 4, 4), numbers(3)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("ConvTranspose", [numbers(4, 2, 3, 3)], {"group": 2, "strides": [2, 2], "output_padding": [1, 1]}),
    ("BatchNormalization", [numbers(4), numbers(4), numbers(4), 1 + abs(numbers(4))], {"epsilon": 0.01}),
    ("LayerNormalization", [numbers(6), numbers(6, seed=1)], {"epsilon": 0.01}),
    ("LayerNormalization", [numbers(6, 6)], {"axis": 2}),
    ("ReduceMean", [ALL[2:]], {}),
    ("ReduceMean", [integers(-1)], {"keepdims": 0}),
    ("ReduceMean", [], {}),
    ("ReduceMean", [], {"noop_with_empty_axes": 1}),
    ("Reshape", [integers(0, 2, -1, 6)], {}),
    ("Reshape", [integers(1, 144)], {"allowzero": 1}),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Unsqueeze", [integers(-1, 1)], {}),
    ("Squeeze", [integers(0)], {}),
    ("Slice", [integers(1, 0), integers(3, 9), integers(1, -1), integers(1, 2)], {}),
    ("Slice", [integers(0, 1), integers(1, 3)], {}),
    ("Expand", [integers(2, 1, 1, 1, 1)], {}),
    ("GatherElements", [np.ones((1, 2, 6, 6), np.int64)], {"axis": 1}),
    ("GatherND", [np.array([[0, 3], [0, 1]], np.int64)], {}),
    ("ScatterElements", [np.full((1, 1, 6, 6), 2, np.int64), numbers(1, 1, 6, 6)], {"axis": 1}),
]


@pytest.mark.parametrize(("operator", "inputs", "attributes"), OPERATOR_CASES)
def test_each_operator_says_what_onnxruntime_says(
    operator: str, inputs: list[np.ndarray | None], attributes: dict[str, Any], tmp_path: Path
) -> None:
    path = one_node(tmp_path / "engine.onnx", operator, inputs, attributes)
    images = torch.from_numpy(numbers(3, *SHAPE[1:], seed=7))
    found = OnnxGraph(path, ["x"])(images)
    expected = by_onnxruntime(path, images)
    assert torch.allclose(found, expected.squeeze(1), atol=1e-5)


@pytest.mark.parametrize("attributes", [{"transB": 1}, {"transA": 1, "alpha": 0.5, "beta": 2.0}])
def test_gemm_says_what_onnxruntime_says(attributes: dict[str, Any], tmp_path: Path) -> None:
    side = 12  # of the 144 values as a square, which any transposition fits
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["square"]),
        helper.make_node("Gemm", ["square", "b", "c"], ["product"], **attributes),
        helper.make_node("Reshape", ["product", "row"], ["y"]),
    ]
    shapes = {"shape": integers(side, side), "row": integers(1, side * side)}
    path = write(tmp_path / "engine.onnx", nodes, {"b": numbers(side, side), "c": numbers(side), **shapes})
    images = torch.from_numpy(numbers(3, *SHAPE[1:], seed=7))
    assert torch.allclose(OnnxGraph(path, ["x"])(images), by_onnxruntime(path, images).squeeze(1), atol=1e-5)


def test_every_operator_is_held_to_onnxruntime() -> None:
    """But for those that only stand in graphs of INT8 engines, which the tests below run."""
    elsewhere = {"Cast", "Gemm", "Sqrt", "FakeQuantize", "DequantizeLinear"}
    assert {operator for operator, *_ in OPERATOR_CASES} <= OPERATORS.keys() - elsewhere


@pytest.fixture
def quantized(tmp_path: Path) -> OnnxGraph:
    """Conv, Relu, Conv, each convolution on quantized inputs and weights; y is (B, 2, 6, 6)."""
    constants = {
        "step": scalar(STEP),
        "coarse": scalar(4 * STEP),
        "zero": np.array(0, np.int8),
        "first": np.random.default_rng(1).integers(-127, 128, (5, 4, 3, 3)).astype(np.int8),
        "first_steps": 0.01 * (1 + abs(numbers(5))),
        "second": np.random.default_rng(2).integers(-127, 128, (2, 5, 1, 1)).astype(np.int8),
        "second_steps": 0.01 * (1 + abs(numbers(2))),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "step", "zero"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["first", "first_steps"], ["first_dq"], axis=0),
        helper.make_node("Conv", ["x_dq", "first_dq"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("QuantizeLinear", ["b", "coarse", "zero"], ["b_q"]),
        helper.make_node("DequantizeLinear", ["b_q", "coarse", "zero"], ["b_dq"]),
        helper.make_node("DequantizeLinear", ["second", "second_steps"], ["second_dq"], axis=0),
        helper.make_node("Conv", ["b_dq", "second_dq"], ["y"]),
    ]
    return OnnxGraph(write(tmp_path / "engine.onnx", nodes, constants), ["x"])


def test_int8_graph_rounds_as_onnxruntime_does(quantized: OnnxGraph) -> None:
    """Inputs are half codes, so that every second one is a tie, up to beyond what the codes reach."""
    halves = np.random.default_rng(3).integers(-300, 300, (6, *SHAPE[1:]))
    images = torch.from_numpy(halves.astype(np.float32) * STEP / 2)
    assert torch.allclose(quantized(images), by_onnxruntime(quantized.path, images).squeeze(1), atol=1e-4)


def test_gradient_is_that_of_the_graph_without_rounding(quantized: OnnxGraph) -> None:
    """Against plain autograd of clamped values, evaluated at the rounded ones."""
    images = 3 * torch.from_numpy(numbers(5, *SHAPE[1:], seed=4))
    weights = {weight.name: weight for weight in onnx.load(quantized.path).graph.initializer}
    array = {name: torch.from_numpy(numpy_helper.to_array(one).copy()) for name, one in weights.items()}
    first = array["first"].float() * array["first_steps"].view(-1, 1, 1, 1)
    second = array["second"].float() * array["second_steps"].view(-1, 1, 1, 1)

    def rounded(x: Tensor, step: float) -> Tensor:
        inside = x.clamp(-128.5 * step, 127.5 * step)
        return inside + ((x / step).round().clamp(-128, 127) * step - inside).detach()

    def independently(x: Tensor) -> Tensor:
        return F.conv2d(rounded(F.conv2d(rounded(x, STEP), first, padding=1).relu(), 4 * STEP), second)

    gradients = []
    for model in (quantized, independently):
        leaf = images.clone().requires_grad_()
        model(leaf).pow(2).sum().backward()
        gradients.append(leaf.grad)
    saturated = (images / STEP).abs() > 129
    assert 0.1 < saturated.float().mean() < 0.9
    assert gradients[0][saturated].abs().max() == 0
    assert (gradients[0][~saturated] != 0).float().mean() > 0.5
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-3)


def test_gradient_ends_where_the_codes_do() -> None:
    x = (STEP * torch.tensor([-129.0, -128.4, -0.3, 0.2, 127.4, 128.0])).requires_grad_()
    value = FakeQuantize.apply(x, torch.tensor(STEP), -128, 127)
    value.sum().backward()
    assert (value / STEP).tolist() == [-128, -128, 0, 0, 127, 127]
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_what_depends_on_no_input_is_computed_once(quantized: OnnxGraph) -> None:
    assert [step.operator for step in quantized._steps] == [
        "FakeQuantize",
        "Conv",
        "Relu",
        "FakeQuantize",
        "Conv",
    ]


def test_refuses_operators_that_it_does_not_know(tmp_path: Path) -> None:
    path = one_node(tmp_path / "engine.onnx", "Hardmax", [], {})
    with pytest.raises(BundleError, match=r"engine\.onnx: operator Hardmax of node node has no counterpart"):
        OnnxGraph(path, ["x"])


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "reason"),
    [
        ("ReduceMean", [integers(9)], {}, "operator ReduceMean of node node: Dimension out of range"),
        ("GatherND", [np.zeros((1, 1), np.int64)], {"batch_dims": 1}, "expected batch_dims 0, got 1"),
        ("ScatterElements", [ALL[:1], scalar(1)[None]], {"reduction": "add"}, "expected no reduction"),
    ],
)
def test_refuses_forms_that_it_does_not_know(
    operator: str,
    inputs: list[np.ndarray | None],
    attributes: dict[str, Any],
    reason: str,
    tmp_path: Path,
) -> None:
    graph = OnnxGraph(one_node(tmp_path / "engine.onnx", operator, inputs, attributes), ["x"])
    with pytest.raises(BundleError, match=rf"engine\.onnx: can't be followed in torch: .*{reason}"):
        graph(torch.rand(2, *SHAPE[1:]))


@pytest.mark.parametrize(("taker", "scale"), [("DequantizeLinear", "other"), ("Relu", None)])
def test_refuses_codes_that_are_not_restored_as_they_were_made(
    taker: str, scale: str | None, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["x_q"]),
        helper.make_node(taker, ["x_q", scale, "zero"] if scale else ["x_q"], ["y"]),
    ]
    constants = {"step": scalar(STEP), "other": scalar(1), "zero": np.array(0, np.int8)}
    with pytest.raises(BundleError, match="x_q isn't restored as it was quantized"):
        OnnxGraph(write(tmp_path / "engine.onnx", nodes, constants), ["x"])


def fake_quantization(zero: np.ndarray, folder: Path) -> OnnxGraph:
    """y is x, quantized and restored by one step and ``zero``."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "step", "zero"], ["y"]),
    ]
    return OnnxGraph(write(folder / "engine.onnx", nodes, {"step": scalar(STEP), "zero": zero}), ["x"])


@pytest.mark.parametrize("zero", [np.array(0, np.int8), np.array(-3, np.int8), np.array(57, np.uint8)])
def test_codes_round_and_saturate_as_onnxruntime_has_them_at_any_zero_point(
    zero: np.ndarray, tmp_path: Path
) -> None:
    graph = fake_quantization(zero, tmp_path)
    images = STEP * 400 * (torch.rand(2, *SHAPE[1:], generator=torch.Generator().manual_seed(0)) - 0.5)
    assert torch.allclose(graph(images), by_onnxruntime(graph.path, images).squeeze(1), atol=1e-6)
    leaf = images.clone().requires_grad_()
    graph(leaf).sum().backward()
    info = np.iinfo(zero.dtype)
    codes = (images / STEP).round() + int(zero)
    assert torch.equal(leaf.grad, ((codes >= info.min) & (codes <= info.max)).float())


def test_codes_of_other_types_are_refused(tmp_path: Path) -> None:
    graph = fake_quantization(np.array(0, np.uint16), tmp_path)
    with pytest.raises(BundleError, match="expected int8 or uint8 codes by one scale"):
        graph(torch.rand(2, *SHAPE[1:]))


def test_a_weight_with_a_zero_point_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["weight"]),
        helper.make_node("Add", ["x", "weight"], ["y"]),
    ]
    constants = {"codes": np.ones(6, np.int8), "step": scalar(STEP), "zero": np.array(3, np.int8)}
    with pytest.raises(BundleError, match=r"engine\.onnx: .* expected a zero point of 0, got 3"):
        OnnxGraph(write(tmp_path / "engine.onnx", nodes, constants), ["x"])


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    path = one_node(tmp_path / "engine.onnx", "Relu", [], {})
    with pytest.raises(BundleError, match=r"engine\.onnx: expected inputs image, keep, got x"):
        OnnxGraph(path, ["image", "keep"])


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "engine.onnx").write_bytes(b"no protobuf")
    with pytest.raises(BundleError, match=r"engine\.onnx: not an ONNX file"):
        OnnxGraph(tmp_path / "engine.onnx", ["x"])


def test_says_which_extra_brings_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = one_node(tmp_path / "engine.onnx", "Relu", [], {})
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendError, match=r"pip install 'edge-purify\[export\]'"):
        OnnxGraph(path, ["x"])
