"""Each operator in the forms of opsets and exporters: values and gradients as ONNX Runtime has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from trainer.models.onnx_graph import OPERATORS, OnnxGraph

IMAGE = (4, 6, 6)
ROW = (12,)
STEP = 1e-3  # of finite differences

Case = tuple[str, list[np.ndarray | None], dict[str, Any], int, tuple[int, ...]]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def case(
    operator: str,
    *inputs: np.ndarray | None,
    opset: int = 18,
    shape: tuple[int, ...] = IMAGE,
    **attributes: Any,
) -> Case:
    return operator, list(inputs), attributes, opset, shape


NORM = 1 + abs(floats(4)), floats(4, seed=1), floats(4, seed=2), 1 + abs(floats(4))
CASES = [
    case("Abs"), case("Neg"), case("Exp"), case("Sin"), case("Cos"), case("Tanh"), case("Sigmoid"),
    case("Softplus"), case("Softsign"), case("Mish"), case("HardSwish"), case("Sign"), case("Floor"),
    case("Ceil"), case("Round"), case("Relu"), case("Erf"), case("Identity"), case("Elu", alpha=0.7),
    case("Celu", alpha=0.7), case("Selu"), case("LeakyRelu", alpha=0.2),
    case("ThresholdedRelu", alpha=0.3), case("Shrink", lambd=0.3, bias=0.1), case("HardSigmoid"),
    case("HardSigmoid", alpha=1 / 6), case("PRelu", floats(4, 1, 1)), case("Gelu", opset=20),
    case("Gelu", opset=20, approximate="tanh"), case("Add", floats(1, 4, 1, 1)), case("Sub", floats(6)),
    case("Mul", scalar(0.3)), case("Div", scalar(0.3)), case("Pow", scalar(2)), case("Pow", scalar(3)),
    case("Mod", scalar(0.4), fmod=1), case("Sum", floats(6), floats(4, 6, 6)),
    case("Mean", floats(6), floats(4, 6, 6)), case("Max", floats(1, 4, 1, 1), scalar(0.1)),
    case("Max", scalar(0.0)), case("Min", floats(1, 4, 1, 1), scalar(0.1)), case("Min", scalar(0.0)),
    case("Clip", scalar(-0.2), scalar(0.4)), case("Clip", None, scalar(0.4)),
    case("Clip", min=0.0, max=0.5, opset=6), case("Softmax"), case("Softmax", axis=1),
    case("Softmax", opset=11), case("Softmax", opset=11, axis=2), case("LogSoftmax", axis=1),
    case("LogSoftmax", opset=11), case("LpNormalization", axis=1, p=2), case("CumSum", np.array(2)),
    case("CumSum", np.array(1), reverse=1, exclusive=1), case("MatMul", floats(6, 5)),
    case("MatMul", floats(4, 6, 3)), case("Trilu", np.array(1), upper=0), case("Trilu"),
    # layers
    case("Conv", floats(8, 4, 3, 3), floats(8), pads=[1, 1, 1, 1], strides=[2, 2]),
    case("Conv", floats(8, 2, 3, 3), pads=[0, 1, 2, 0], group=2, dilations=[2, 2]),
    case("Conv", floats(4, 1, 3, 3), group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", floats(8, 4, 4, 4), auto_pad="SAME_LOWER", strides=[1, 2]),
    case("Conv", floats(8, 4, 3, 3), auto_pad="VALID"),
    case("Conv", floats(5, 4, 3), shape=(4, 6), pads=[1, 0]),
    case("ConvTranspose", floats(4, 3, 4, 4), floats(3), pads=[1, 1, 1, 1], strides=[2, 2]),
    case("ConvTranspose", floats(4, 2, 3, 3), group=2, strides=[2, 2], output_padding=[1, 1]),
    case("ConvTranspose", floats(4, 3, 4, 4), pads=[0, 1, 2, 1], strides=[2, 2]),
    case("ConvTranspose", floats(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("ConvTranspose", floats(4, 3, 3, 3), output_shape=[12, 13], strides=[2, 2]),
    case("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", kernel_shape=[3], shape=(4, 6)),
    case("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    case("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    case("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0], count_include_pad=1),
    case("AveragePool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    case("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), case("GlobalAveragePool"),
    case("GlobalMaxPool"), case("BatchNormalization", *NORM, epsilon=0.01),
    case("BatchNormalization", *NORM, opset=7), case("InstanceNormalization", *NORM[:2], epsilon=0.01),
    case("GroupNormalization", *NORM[:2], num_groups=2, opset=21), case("LRN", size=3),
    case("LRN", size=5, alpha=0.5, bias=2.0),
    case("LayerNormalization", floats(6), floats(6, seed=1), epsilon=0.01),
    case("LayerNormalization", floats(6, 6), axis=2),
    case("RMSNormalization", floats(6), opset=23, epsilon=0.01),
    case("Gemm", floats(12, 5), floats(5), shape=ROW),
    case("Gemm", floats(5, 12), floats(5), shape=ROW, transB=1),
    case("Gemm", floats(5, 12), shape=ROW, transB=1, alpha=0.5),
    case("Gemm", floats(12, 5), floats(1, 5), shape=ROW, beta=0.5),
    # reductions, axes as an input and as an attribute
    *(
        case(operator, *inputs, **attributes)
        for operator in (
            "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd",
            "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare",
        )
        for inputs, attributes in (
            ((ints(2, 3),), {}),
            ((ints(-1),), {"keepdims": 0}),
            ((), {"axes": [2, 3], "opset": 11}),
            ((), {}),
        )
    ),
    case("ReduceMean", noop_with_empty_axes=1), case("ReduceMean", ints(1, 2), keepdims=0),
    # shapes
    case("Reshape", ints(0, 2, -1, 6)), case("Reshape", ints(1, 144)), case("Reshape", ints(1, -1)),
    case("Reshape", ints(-1, 36)), case("Reshape", ints(4, 36)),
    case("Reshape", ints(1, 144), allowzero=1), case("Flatten"), case("Flatten", axis=2),
    case("Flatten", axis=-1), case("Transpose", perm=[0, 2, 3, 1]), case("Transpose", perm=[2, 0, 1, 3]),
    case("Transpose"), case("Unsqueeze", ints(-1, 1)), case("Unsqueeze", axes=[1, 2], opset=11),
    case("Squeeze", ints(1), shape=(1, 4, 6)), case("Squeeze", axes=[1], shape=(1, 4, 6), opset=11),
    case("Squeeze", ints(0)), case("Slice", ints(1, 0), ints(3, 9), ints(1, -1), ints(1, 2)),
    case("Slice", ints(0, 1), ints(1, 3)), case("Slice", ints(-1), ints(-2**63 + 1), ints(2), ints(-1)),
    case("Slice", ints(4), ints(0), ints(3), ints(-2)),
    case("Slice", starts=[1], ends=[5], axes=[2], opset=9), case("Slice", ints(0), ints(2**62), ints(1)),
    case("Gather", ints(2, 0), axis=1), case("Gather", np.array(3), axis=2),
    case("Gather", np.array(-1), axis=3), case("Gather", ints(0, -1).reshape(2, 1), axis=2),
    case("GatherElements", np.ones((1, 2, 6, 6), np.int64), axis=1),
    case("GatherElements", -np.ones((1, 2, 6, 6), np.int64), axis=1),
    case("GatherND", np.array([[0, 3], [0, 1]], np.int64)),
    case("ScatterElements", np.full((1, 1, 6, 6), 2, np.int64), floats(1, 1, 6, 6), axis=1),
    case("ScatterND", np.array([[0, 3], [0, 1]], np.int64), floats(2, 6, 6)),
    case("Expand", ints(2, 1, 1, 1, 1)), case("Expand", ints(1, 4, 6, 6)),
    case("Expand", ints(1, 1, 1, 6)), case("Tile", ints(1, 2, 1, 3)),
    case("Concat", floats(1, 2, 6, 6), axis=1), case("Concat", floats(1, 4, 6, 2), axis=-1),
    case("Pad", ints(0, 0, 1, 2, 0, 0, 2, 0)), case("Pad", ints(0, 0, 1, 2, 0, 0, 2, 0), scalar(0.5)),
    case("Pad", ints(0, 0, -1, 2, 0, 0, 2, -1)), case("Pad", ints(1, 2, 2, 1), scalar(0.0), ints(2, 3)),
    case("Pad", ints(0, 0, 1, 2, 0, 0, 2, 3), mode="reflect"),
    case("Pad", ints(0, 0, 1, 2, 0, 0, 2, 3), mode="edge"),
    case("Pad", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5, opset=2),
    case("Pad", ints(0, 1, 0, 0, 0, 2, 0, 0), mode="reflect"), case("DepthToSpace", blocksize=2),
    case("DepthToSpace", blocksize=2, mode="CRD"), case("SpaceToDepth", blocksize=2),
    # resizing
    case("Resize", None, floats(0), ints(1, 4, 9, 12)),
    case("Resize", None, np.array([1, 1, 2, 2], np.float32)),
    case("Resize", None, np.array([1, 1, 2, 2], np.float32), mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    case("Resize", None, floats(0), ints(1, 4, 9, 12), mode="linear"),
    case("Resize", None, floats(0), ints(1, 4, 3, 4), mode="linear"),
    case("Resize", None, floats(0), ints(1, 4, 9, 13), mode="linear",
        coordinate_transformation_mode="align_corners"),
    case("Resize", None, np.array([1, 1, 1.5, 2.3], np.float32), mode="linear",
        coordinate_transformation_mode="asymmetric"),
    case("Resize", None, floats(0), ints(1, 4, 9, 13), mode="linear",
        coordinate_transformation_mode="pytorch_half_pixel"),
    case("Resize", None, floats(0), ints(1, 4, 9, 13), mode="cubic"),
    case("Resize", None, floats(0), ints(1, 4, 9, 13), mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
    case("Resize", None, floats(0), ints(9, 13), axes=[2, 3], mode="linear"),
    case("Resize", np.array([1, 1, 2, 3], np.float32), opset=10),
    case("Upsample", np.array([1, 1, 2, 2], np.float32), opset=9),
    case("Upsample", np.array([1, 1, 2, 2], np.float32), opset=9, mode="linear"),
    case("Upsample", opset=7, scales=[1.0, 1.0, 2.0, 2.0]), case("Cast", to=TensorProto.FLOAT),
    case("CastLike", floats(1)), case("Dropout"), case("Dropout", scalar(0.5)),
    case("Dropout", opset=7, ratio=0.5),
]  # fmt: skip

JUMPS = ("Sign", "Floor", "Ceil", "Round", "Mod")  # where differences say nothing of a gradient
ELSEWHERE = {
    *("FakeQuantize", "DequantizeLinear"),  # test_graph
    *("And", "Or", "Not", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where"),
    *("IsNaN", "IsInf", "Shape", "Size", "Range", "ConstantOfShape", "NonZero", "ArgMax"),  # GRAPHS
    *("Split", "Einsum", "Attention", "Swish"),
    *("Log", "Sqrt", "Reciprocal", "ReduceLogSum"),  # of positive values
}  # fmt: skip


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], opset: int, shape: tuple[int, ...]
) -> bytes:
    """A graph from x, one image of ``shape``, to y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


def one_node(
    operator: str,
    inputs: list[np.ndarray | None],
    attributes: dict[str, Any],
    opset: int,
    shape: tuple[int, ...],
) -> bytes:
    names = ["x", *("" if value is None else f"c{place}" for place, value in enumerate(inputs))]
    constants = {f"c{place}": value for place, value in enumerate(inputs) if value is not None}
    return model_of(
        [helper.make_node(operator, names, ["y"], name="node", **attributes)], constants, opset, shape
    )


def by_onnxruntime(content: bytes, images: Tensor) -> Tensor:
    """Row by row, as an engine runs: (B, 1, …) or what else the graph gives for one image."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    rows = [session.run(None, {"x": image[None].numpy()})[0] for image in images]
    return torch.from_numpy(np.stack(rows)).squeeze(1)


def hold(content: bytes, images: Tensor, *, jumps: bool = False) -> None:
    """Values and gradient of a graph, for the batch at once and by ``vmap``, against ONNX Runtime's."""
    expected = by_onnxruntime(content, images)
    weights = torch.from_numpy(np.random.default_rng(3).uniform(0.5, 1.5, expected.shape))
    way = torch.from_numpy(np.random.default_rng(4).choice([-1.0, 1.0], images.shape).astype(np.float32))
    shifted = [by_onnxruntime(content, images + sign * STEP * way).double() for sign in (1, -1)]
    slope = float(((shifted[0] - shifted[1]) * weights).sum()) / (2 * STEP)
    for in_batches in (None, False):
        graph = OnnxGraph(Path("graph.onnx"), ["x"], content=content)
        graph._in_batches = in_batches
        leaf = images.clone().requires_grad_()
        found = graph(leaf)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-5 * max(1.0, float(expected.abs().max()))), in_batches
        if jumps:
            continue
        (found * weights).sum().backward()
        size = float((leaf.grad.abs()).sum())
        assert abs(float((leaf.grad * way).sum()) - slope) < 2e-3 * size + 2e-3


@pytest.mark.parametrize("one", CASES, ids=lambda one: f"{one[0]}-{one[3]}")
def test_says_and_differentiates_what_onnxruntime_does(one: Case) -> None:
    operator, inputs, attributes, opset, shape = one
    content = one_node(operator, inputs, attributes, opset, shape)
    hold(content, torch.from_numpy(floats(3, *shape, seed=7)), jumps=operator in JUMPS)


@pytest.mark.parametrize("operator", ["Log", "Sqrt", "Reciprocal", "ReduceLogSum"])
def test_of_positive_values(operator: str) -> None:
    content = one_node(operator, [], {}, 18, IMAGE)
    hold(content, 0.5 + torch.from_numpy(abs(floats(3, *IMAGE, seed=7))))


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


GRAPHS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], int]] = {
    "a split into unequal parts": (
        [
            node("Split", "x sizes", "a b", axis=1), node("Concat", "b a", "y", axis=1),
        ],
        {"sizes": ints(1, 3)},
        18,
    ),
    "a split whose sizes are an attribute": (
        [
            node("Split", "x", "a b", axis=1, split=[1, 3]), node("Concat", "b a", "y", axis=1),
        ],
        {},
        11,
    ),
    "a split into equal parts": (
        [
            node("Split", "x", "a b", axis=2, num_outputs=2), node("Sub", "a b", "y"),
        ],
        {},
        18,
    ),
    "a choice by comparison": (
        [
            node("Greater", "x low", "a"), node("LessOrEqual", "x high", "b"), node("And", "a b", "c"),
            node("Not", "c", "d"), node("Or", "c d", "e"), node("Xor", "d e", "f"),
            node("Mul", "x x", "square"), node("Where", "f square x", "y"),
        ],
        {"low": scalar(-0.5), "high": scalar(0.5)},
        18,
    ),
    "a comparison of equals": (
        [
            node("GreaterOrEqual", "x low", "a"), node("Less", "x low", "b"), node("Equal", "a b", "c"),
            node("IsNaN", "x", "d"), node("IsInf", "x", "e"), node("Or", "c d", "f"),
            node("Or", "e f", "g"), node("Where", "g low x", "y"),
        ],
        {"low": scalar(0.5)},
        18,
    ),
    "a flattening by shape arithmetic": (
        [
            node("Shape", "x", "s"), node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n first", "rows"), node("Concat", "rows rest", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        {"zero": np.array(0), "first": ints(0), "rest": ints(-1)},
        18,
    ),
    "a token before others, by the batch's shape": (
        [
            node("Flatten", "x", "flat"), node("Unsqueeze", "flat one", "tokens"), node("Shape", "x", "s"),
            node("Slice", "s first one", "n"), node("Concat", "n size", "shape", axis=0),
            node("Expand", "token shape", "t"), node("Concat", "t tokens", "y", axis=1),
        ],
        {"one": ints(1), "first": ints(0), "size": ints(1, 144), "token": floats(1, 1, 144)},
        18,
    ),
    "a token before others, written for one image": (
        [
            node("Reshape", "x shape", "tokens"), node("Concat", "token tokens", "y", axis=1),
        ],
        {"shape": ints(1, 4, 36), "token": floats(1, 1, 36)},
        18,
    ),
    "heads of attention, written for one image": (
        [
            node("Reshape", "x shape", "t"), node("Transpose", "t", "h", perm=[2, 0, 1, 3]),
            node("Split", "h", "q k v w", axis=0), node("Squeeze", "q first", "q2"),
            node("Squeeze", "k first", "k2"), node("Squeeze", "v first", "v2"),
            node("Transpose", "k2", "kt", perm=[0, 2, 1]), node("MatMul", "q2 kt", "a"),
            node("Softmax", "a", "p", axis=-1), node("MatMul", "p v2", "m"),
            node("Reshape", "m flat", "y"),
        ],
        {"shape": ints(1, 6, 4, 6), "first": ints(0), "flat": ints(1, 36)},
        13,
    ),
    "tokens before the batch, written for one image": (
        [
            node("Reshape", "x shape", "t"), node("Transpose", "t", "first", perm=[1, 0, 2]),
            node("MatMul", "first w", "m"), node("Transpose", "m", "y", perm=[1, 0, 2]),
        ],
        {"shape": ints(1, 36, 4), "w": floats(4, 5)},
        18,
    ),
    "a mean over images, which no batch may have": (
        [
            node("ReduceMean", "x axes", "m", keepdims=1), node("Sub", "x m", "y"),
        ],
        {"axes": ints(0, 2, 3)},
        18,
    ),
    "constants that are made": (
        [
            node("Range", "zero six step", "r"), node("Cast", "r", "ramp", to=1),
            node("ConstantOfShape", "shape", "none"), node("Add", "ramp none", "c"),
            node("NonZero", "c", "z"), node("Size", "z", "size"), node("Cast", "size", "count", to=1),
            node("ArgMax", "c", "i", axis=0), node("Cast", "i", "last", to=1), node("Mul", "x c", "a"),
            node("Add", "a count", "b"), node("Sub", "b last", "y"),
        ],
        {"zero": np.array(0), "six": np.array(6), "step": np.array(1), "shape": ints(6)},
        18,
    ),
    "an Einsum": (
        [
            node("Einsum", "x w", "y", equation="bchw, wd -> bchd"),
        ],
        {"w": floats(6, 5)},
        18,
    ),
    "the normalization of tf2onnx": (
        [
            node("Transpose", "x", "a", perm=[0, 2, 3, 1]), node("Sub", "a mean", "b"),
            node("Transpose", "b", "c", perm=[0, 3, 1, 2]),
            node("Conv", "c w", "d", auto_pad="SAME_UPPER", strides=[2, 2]), node("Max", "d zero", "e"),
            node("Min", "e six", "y"),
        ],
        {"mean": floats(4), "w": floats(5, 4, 3, 3), "zero": scalar(0), "six": scalar(6)},
        13,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_as_exporters_write_them(name: str) -> None:
    nodes, constants, opset = GRAPHS[name]
    hold(
        model_of(nodes, constants, opset, IMAGE),
        torch.from_numpy(floats(3, *IMAGE, seed=7)),
        jumps="comparison" in name,
    )


def test_attention_is_that_of_torch() -> None:
    nodes = [node("Attention", "x x x", "y")]
    content = model_of(nodes, {}, 23, IMAGE)
    images = torch.from_numpy(floats(3, *IMAGE, seed=7))
    expected = torch.nn.functional.scaled_dot_product_attention(images, images, images)
    assert torch.allclose(OnnxGraph(Path("graph.onnx"), ["x"], content=content)(images), expected, atol=1e-6)


def test_every_operator_is_held_to_onnxruntime() -> None:
    assert {operator for operator, *_ in CASES} | ELSEWHERE >= OPERATORS.keys()


@pytest.mark.parametrize(
    ("operator", "attributes", "complaint"),
    [
        ("Hardmax", {}, r"graph\.onnx: operator Hardmax of node node has no counterpart in torch"),
        ("Resize", {"antialias": 1}, "operator Resize of node node: Resize: expected no antialias"),
    ],
)
def test_names_operator_and_node_that_it_cannot_follow(
    operator: str, attributes: dict[str, Any], complaint: str
) -> None:
    from sdk.errors import BundleError

    inputs = [None, floats(0), ints(1, 4, 3, 3)] if operator == "Resize" else []
    content = one_node(operator, inputs, attributes, 18, IMAGE)
    with pytest.raises(BundleError, match=complaint):
        OnnxGraph(Path("graph.onnx"), ["x"], content=content)(torch.zeros(2, *IMAGE))


def test_what_depends_on_shapes_alone_is_computed_once() -> None:
    nodes, constants, opset = GRAPHS["a token before others, by the batch's shape"]
    graph = OnnxGraph(Path("graph.onnx"), ["x"], content=model_of(nodes, constants, opset, IMAGE))
    graph(torch.rand(3, *IMAGE))
    (plan,) = (plan for key, plan in graph._plans.items() if key[0][0][0] == 3)
    assert [bound.step.operator for bound in plan.steps] == ["Flatten", "Unsqueeze", "Concat"]
