"""INT8 for TensorRT: pairs of QuantizeLinear and DequantizeLinear around what carries an engine's arithmetic.

Signed and symmetric throughout, as TensorRT requires. Quantized are the input and the weight of each layer,
and both inputs of each residual addition, so that feature maps stay INT8 from one convolution to the next.
Activations have one scale for each tensor, weights one for each output channel; biases and all other
operators stay in FP32. CPUs take another graph, see ``export.precision.int8_cpu``.

Written out rather than taken from ONNX Runtime's ``quantize_static``, which quantizes along the axis of one
use a weight that a convolution and a transposed one share, so that the graph fails where it is run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from export.precision.graph import finished, output_channels, parse, residual_additions, weighted_layers

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
STEPS = 127  # the largest code; -128 stays unused, so that zero is the middle


def quantizable(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """The nodes that INT8 is for, layers and residual additions: by name, the activations that each takes."""
    layers, additions = weighted_layers(model, OPERATORS), residual_additions(model)
    return {
        node.name: (*node.input,) if node.name in additions else (node.input[0],)
        for node in model.graph.node
        if node.name in layers or node.name in additions
    }


def quantize(data: bytes, largest: Mapping[str, float], *, excluded: Collection[str] = ()) -> bytes:
    """The INT8 form of the FP32 engine ``data``.

    Args:
        data: an engine's ONNX file.
        largest: by value, the largest absolute value to be represented; larger ones saturate.
        excluded: names of layers and additions that stay in FP32.

    Raises:
        ExportError: the quantized graph is not valid.
    """
    model = parse(data)
    chosen = {name: values for name, values in quantizable(model).items() if name not in excluded}
    weights = {weight.name: weight for weight in model.graph.initializer}
    quantization = _Quantization(weights, largest)
    nodes = [
        made
        for node in model.graph.node
        for made in (quantization.convert(node, chosen[node.name]) if node.name in chosen else (node,))
    ]
    return finished(model, nodes, quantization.weights.values())


class _Quantization:
    """Converts node after node: one pair for an activation, one INT8 weight for each axis of its uses.

    Every weight is quantized for its use: two layers share one only if they agree on the axis.
    """

    def __init__(self, weights: dict[str, onnx.TensorProto], largest: Mapping[str, float]) -> None:
        self.weights = weights
        self.largest = largest
        self.done: set[str] = set()

    def convert(self, node: onnx.NodeProto, activations: Collection[str]) -> Iterator[onnx.NodeProto]:
        """The node, after what quantizes its activations and restores its weight."""
        node = onnx.NodeProto.FromString(node.SerializeToString())
        for value in dict.fromkeys(activations):
            if f"{value}_dq" not in self.done:
                yield from self._activation(value)
        if node.op_type in OPERATORS:
            weight = node.input[1]
            axis = output_channels(node, len(self.weights[weight].dims))
            restored = weight if axis is None else f"{weight}_axis{axis}"
            if f"{restored}_dq" not in self.done:
                yield self._weight(weight, restored, axis)
            node.input[1] = f"{restored}_dq"
        node.input[:] = [f"{value}_dq" if value in activations else value for value in node.input]
        self.done |= {*node.input}
        yield node

    def _activation(self, value: str) -> Iterator[onnx.NodeProto]:
        scale = np.float32(_scale(np.array(self.largest[value])))
        self._add(f"{value}_scale", scale)
        self._add("zero", np.int8(0))
        by = [f"{value}_scale", "zero"]
        yield helper.make_node("QuantizeLinear", [value, *by], [f"{value}_q"], name=f"{value}_q")
        yield helper.make_node("DequantizeLinear", [f"{value}_q", *by], [f"{value}_dq"], name=f"{value}_dq")

    def _weight(self, weight: str, restored: str, axis: int | None) -> onnx.NodeProto:
        values = numpy_helper.to_array(self.weights[weight])
        others = tuple(place for place in range(values.ndim) if place != axis)
        scale = _scale(np.abs(values).max(axis=others, keepdims=True))
        codes = np.rint(values / scale).clip(-STEPS, STEPS).astype(np.int8)
        self._add(f"{restored}_q", codes)
        self._add(f"{restored}_scale", scale.reshape(-1) if axis is not None else scale.reshape(()))
        return helper.make_node(
            "DequantizeLinear",
            [f"{restored}_q", f"{restored}_scale"],
            [f"{restored}_dq"],
            name=f"{restored}_dq",
            **({} if axis is None else {"axis": axis}),
        )

    def _add(self, name: str, values: npt.NDArray[np.generic] | np.generic) -> None:
        self.weights[name] = numpy_helper.from_array(np.asarray(values), name)


def _scale(largest: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """The step between two codes; 1 where everything is zero, since a step of zero is no step."""
    scale = np.where(largest > 0, largest / STEPS, 1.0)
    return scale.astype(np.float32).clip(min=np.finfo(np.float32).tiny)
