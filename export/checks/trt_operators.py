"""Whether TensorRT 10.3's parser takes a graph, checked without TensorRT: an operator × dtype allow-list.

TensorRT-RTX builds engines on any machine, and its parser is newer than that of JetPack 6, TensorRT 10.3.
So a second test holds every graph to what 10.3 is known to take: for the operators that image models use,
what onnx-tensorrt's operator tables of TensorRT 8.5 and of 10.15 both allow, and what its change log dates in
between and not after 10.3 (int64, LayerNormalization and GroupNormalization, integers in ArgMax and TopK).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from sdk.bundle import Bundle
from sdk.errors import EdgePurifyError

OPSETS = range(9, 21)  # that 10.3 parses

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_NUMBERS = _FLOATS | {TensorProto.INT32, TensorProto.INT64}
_ALL = _NUMBERS | {TensorProto.BOOL}

_TAKES: dict[frozenset[int], str] = {
    _FLOATS: """
        AveragePool BatchNormalization Ceil Clip Conv ConvTranspose Cos Elu Erf Exp Floor Gemm
        GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid HardSwish InstanceNormalization
        LayerNormalization LeakyRelu Log LogSoftmax MatMul MaxPool PRelu Pow QuantizeLinear Reciprocal
        ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare Relu Resize Round Selu Sigmoid Sin Softmax Softplus Softsign Sqrt Tanh
        ThresholdedRelu
    """,
    _NUMBERS: """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod
        Mul Neg Pad Range ScatterElements Shrink Sign SpaceToDepth Sub Sum TopK
    """,
    _ALL: """
        Cast Concat Constant Expand Flatten Gather GatherElements GatherND Identity OneHot Reshape Shape Slice
        Split Squeeze Tile Transpose Trilu Unsqueeze Where
    """,
    frozenset({TensorProto.FLOAT}): "ConstantOfShape",
    frozenset({TensorProto.BOOL}): "And Not Or Xor",
    frozenset({TensorProto.INT8}): "DequantizeLinear",
}
TAKES = {operator: dtypes for dtypes, names in _TAKES.items() for operator in names.split()}

_MADE_HERE = {"Constant", "ConstantOfShape", "Range"}  # their type is that of their output
_CONSTANT_INPUTS = {  # by place; the axes of ``Reduce…`` beside them
    "Squeeze": (1, "axes"),
    "Unsqueeze": (1, "axes"),
    "QuantizeLinear": (1, "scale"),
    "DequantizeLinear": (1, "scale"),
}


class OperatorError(EdgePurifyError):
    """A graph holds what a TensorRT that must build it doesn't take."""


@dataclass(frozen=True)
class Complaint:
    """One node that TensorRT 10.3 doesn't take, and why."""

    node: str
    operator: str
    why: str


def check_bundle(bundle: Bundle) -> None:
    """Hold every graph of ``bundle`` to what TensorRT 10.3 takes.

    Raises:
        OperatorError: naming the first engine that is beyond it, and its nodes.
    """
    for engine in bundle.manifest.engines:
        for precision, file in engine.onnx.items():  # CPUs' own graphs are never built
            check_operators(onnx.load_model_from_string(bundle.read(file)), f"{engine.id} ({precision})")


def check_operators(model: onnx.ModelProto, name: str) -> None:
    """Hold ``model`` to what TensorRT 10.3 takes.

    Args:
        name: the engine's id and precision, which head the error.

    Raises:
        OperatorError: naming every node that is beyond it.
    """
    found = list(complaints(model))
    if found:
        listed = "; ".join(f"{each.operator} {each.node!r}: {each.why}" for each in found)
        raise OperatorError(f"{name}: TensorRT 10.3 doesn't take {listed}")


def complaints(model: onnx.ModelProto) -> Iterator[Complaint]:
    """Every node that TensorRT 10.3 doesn't take."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset not in OPSETS:
        why = f"opset {opset}, expected {OPSETS.start} to {OPSETS.stop - 1}"
        yield Complaint(model.graph.name, "graph", why)
    try:
        graph = _Graph(onnx.shape_inference.infer_shapes(model).graph)
    except onnx.shape_inference.InferenceError:  # a foreign operator, which is complained about below
        graph = _Graph(model.graph)
    for node in model.graph.node:
        for why in _complaints_about(node, graph, opset):
            yield Complaint(node.name, node.op_type, why)


class _Graph:
    """What is known of a graph's values by name: their dtypes, and the constants."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {value.name: value for value in graph.initializer}
        self.constants |= {
            node.output[0]: attribute.t
            for node in graph.node
            for attribute in node.attribute
            if node.op_type == "Constant" and attribute.name == "value"
        }
        self.dtypes = {name: value.data_type for name, value in self.constants.items()}
        self.dtypes |= {
            value.name: value.type.tensor_type.elem_type
            for value in (*graph.input, *graph.value_info, *graph.output)
        }


def _complaints_about(node: onnx.NodeProto, graph: _Graph, opset: int) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield f"it is of the domain {node.domain}, expected ONNX's own"
        return
    if node.op_type == "ScatterND" and opset >= 18:
        yield "from opset 18 on it needs TensorRT 10.9; use ScatterElements"
        return
    if node.op_type not in TAKES:
        yield "the operator isn't on the list"
        return
    yield from _complaints_about_dtype(node, graph)
    yield from _complaints_about_constants(node, graph)
    yield from _complaints_about_details(node)


def _complaints_about_dtype(node: onnx.NodeProto, graph: _Graph) -> Iterator[str]:
    made_here = node.op_type in _MADE_HERE
    value = node.output[0] if made_here else node.input[1 if node.op_type == "Where" else 0]
    dtype = graph.dtypes.get(value)
    if dtype is None:
        yield f"the type of {value!r} can't be inferred"
    elif dtype not in TAKES[node.op_type]:
        expected = ", ".join(sorted(_name(each) for each in TAKES[node.op_type]))
        yield f"{value!r} is {_name(dtype)}, expected {expected}"
    if node.op_type == "Pow" and graph.dtypes.get(node.input[1]) not in _FLOATS:
        yield "an integer as the exponent needs TensorRT 10.8"


def _complaints_about_constants(node: onnx.NodeProto, graph: _Graph) -> Iterator[str]:
    """Inputs that must be known when the engine is built; zero points must be 0 as well."""
    place, what = _CONSTANT_INPUTS.get(node.op_type, (1, "axes"))
    needs = node.op_type in _CONSTANT_INPUTS or node.op_type.startswith("Reduce")
    if needs and len(node.input) > place and node.input[place] and node.input[place] not in graph.constants:
        yield f"its {what} must be a constant"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 and node.input[2]:
        zero_point = graph.constants.get(node.input[2])
        if zero_point is None or zero_point.data_type != TensorProto.INT8:
            yield "its zero point must be a constant of int8"
        elif onnx.numpy_helper.to_array(zero_point).any():
            yield "its zero point must be 0: quantize symmetrically"


def _complaints_about_details(node: onnx.NodeProto) -> Iterator[str]:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type in ("LayerNormalization", "MaxPool") and any(node.output[1:]):
        yield "only its first output is supported"
    if node.op_type in ("AveragePool", "MaxPool") and set(attributes.get("dilations", ())) - {1}:
        yield "dilations aren't supported"
    if node.op_type == "ScatterElements" and attributes.get("reduction", b"none") != b"none":
        yield "a reduction needs a plugin"
    if node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
        yield "axes as an input need TensorRT 10.4"
    if node.op_type == "Resize" and attributes.get("mode") == b"cubic":
        yield "cubic interpolation isn't supported"
    if node.op_type == "Resize" and attributes.get("antialias"):
        yield "antialiasing isn't supported"


def _name(dtype: int) -> str:
    return str(TensorProto.DataType.Name(dtype)).lower()
