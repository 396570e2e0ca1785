"""FP16 by casts in the graph: half precision where it is safe, FP32 where it would lose the result.

Written out rather than taken from onnxconverter-common, whose converter gives a wrong type to a constant
that a node in FP32 and one in FP16 share (it refuses to check, seen on a masked autoencoder), and rounds
small weights up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.precision.graph import finished, float_values, parse

FLOAT32_OPS = frozenset(
    {
        # sums of squares and exponentials overflow
        *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization"),
        *(
            "Softmax",
            "LogSoftmax",
            "ReduceMean",
            "ReduceSum",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        ),
        *("Pow", "Exp", "Log", "Sqrt", "Reciprocal", "CumSum"),
        # a soft threshold: what it leaves is the small difference between a code and its clipped value
        *("Max", "Min", "Clip"),
        # defined for FP32 alone, or of a type that an attribute fixes
        *("Resize", "Cast", "Constant", "ConstantOfShape"),
    }
)
LIMIT = 32_768.0  # half of the largest FP16 number: values seen in calibration keep a factor of two of room


def halve(data: bytes, largest: Mapping[str, float] | None = None) -> bytes:
    """The FP16 form of the FP32 engine ``data``.

    Args:
        data: an engine's ONNX file.
        largest: the largest absolute value seen of inner values, by name; a node that makes one beyond
            ``LIMIT``
            stays in FP32.

    Raises:
        ExportError: the converted graph is not valid.
    """
    model = parse(data)
    largest = largest or {}
    wide = {name for name, value in largest.items() if value > LIMIT}
    kept = _kept_in_float32(model.graph, wide)
    conversion = _Conversion(model, float_values(model))
    nodes = [made for node in model.graph.node for made in conversion.convert(node, node.name in kept)]
    return finished(model, nodes, conversion.weights.values())


def _kept_in_float32(graph: onnx.GraphProto, wide: Collection[str]) -> set[str]:
    """Names of the nodes that stay in FP32: by operator, by value, and what lies between two of them."""
    lost = {weight.name for weight in graph.initializer if _lost_in_half(weight)}
    kept = {
        node.name
        for node in graph.node
        if node.op_type in FLOAT32_OPS or lost & {*node.input} or {*wide} & {*node.input, *node.output}
    }
    maker = {value: node.name for node in graph.node for value in node.output}
    takers: dict[str, set[str]] = {}
    for node in graph.node:
        for value in node.input:
            takers.setdefault(value, set()).add(node.name)
    while True:
        enclosed = {
            node.name
            for node in graph.node
            if node.name not in kept
            and (makers := {maker[value] for value in node.input if value in maker})
            and makers <= kept
            and (after := {name for value in node.output for name in takers.get(value, ())})
            and after <= kept
        }
        if not enclosed:
            return kept
        kept |= enclosed


def _lost_in_half(weight: onnx.TensorProto) -> bool:
    """Whether a constant of one value, such as an epsilon, becomes zero or infinite in FP16."""
    if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) != 1:
        return False
    value = numpy_helper.to_array(weight)
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    return bool(np.any((half == 0) != (value == 0)) or not np.all(np.isfinite(half)))


class _Conversion:
    """Converts node after node, and adds each cast and each half constant once."""

    def __init__(self, model: onnx.ModelProto, floats: set[str]) -> None:
        self.floats = floats
        self.outputs = {value.name for value in model.graph.output}
        self.weights = {weight.name: weight for weight in model.graph.initializer}
        self.half: set[str] = set()  # values that a node made in FP16
        self.casts: set[str] = set()

    def convert(self, node: onnx.NodeProto, in_float32: bool) -> Iterator[onnx.NodeProto]:
        """The node, after the casts of its inputs and before that of an output of the graph."""
        node = onnx.NodeProto.FromString(node.SerializeToString())
        in_float32 = in_float32 or not self.floats & {*node.output}
        for place, value in enumerate(node.input):
            if value in self.floats:
                node.input[place] = self._typed(value, not in_float32)
                if node.input[place] not in self.casts | {value} | {*self.weights}:
                    self.casts.add(node.input[place])
                    yield _cast(
                        value, node.input[place], TensorProto.FLOAT if in_float32 else TensorProto.FLOAT16
                    )
        if in_float32:
            yield node
            return
        ends = [value for value in node.output if value in self.outputs]
        node.output[:] = [f"{value}_half" if value in ends else value for value in node.output]
        self.half |= {*node.output}
        yield node
        for value in ends:
            self.half.add(f"{value}_half")
            yield _cast(f"{value}_half", value, TensorProto.FLOAT)

    def _typed(self, value: str, half: bool) -> str:
        """The name under which ``value`` is to be had in the type wanted."""
        if value in self.weights:
            return self._half_weight(value) if half else value
        if half == (value in self.half):
            return value
        return f"{value}_half" if half else f"{value}_float"

    def _half_weight(self, name: str) -> str:
        half = f"{name}_half"
        if half not in self.weights:
            limits = np.finfo(np.float16)
            values = numpy_helper.to_array(self.weights[name]).clip(limits.min, limits.max)
            self.weights[half] = numpy_helper.from_array(values.astype(np.float16), half)
        return half


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=to)
