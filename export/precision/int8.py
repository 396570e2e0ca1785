"""INT8 by pairs of QuantizeLinear and DequantizeLinear around the layers that carry an engine's arithmetic.

Symmetric throughout, as TensorRT asks.  Only a layer's input and its weight are quantized: activations by
one scale for each tensor, weights by one for each output channel; biases and all other operators stay in
FP32.

Written out rather than taken from ONNX Runtime's ``quantize_static``, which quantizes along the axis of one
use a weight that a convolution and a transposed one share, so that the graph fails where it is run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.precision.graph import finished, parse

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
STEPS = 127  # the largest code; -128 stays unused, so that zero is the middle


def quantizable(model: onnx.ModelProto) -> dict[str, str]:
    """The layers that INT8 is for: names of nodes, and of the value that each takes.

    A product of two activations, as inside attention, is none.
    """
    weights = {
        weight.name
        for weight in model.graph.initializer
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1
    }
    return {
        node.name: node.input[0]
        for node in model.graph.node
        if node.op_type in OPERATORS and node.input[1] in weights and node.input[0] not in weights
    }


def quantize(data: bytes, largest: Mapping[str, float], *, excluded: Collection[str] = ()) -> bytes:
    """The INT8 form of the FP32 engine ``data``.

    Args:
        data: an engine's ONNX file.
        largest: by value, the largest absolute value to be represented; larger ones saturate.
        excluded: names of layers that stay in FP32.

    Raises:
        ExportError: the quantized graph is not valid.
    """
    model = parse(data)
    layers = quantizable(model).keys() - set(excluded)
    weights = {weight.name: weight for weight in model.graph.initializer}
    quantization = _Quantization(weights, largest)
    nodes = [
        made
        for node in model.graph.node
        for made in (quantization.convert(node) if node.name in layers else (node,))
    ]
    return finished(model, nodes, quantization.weights.values())


class _Quantization:
    """Converts layer after layer: one pair for an activation, one INT8 weight for each axis of its uses.

    Every weight is quantized for its use: two layers share one only if they agree on the axis.
    """

    def __init__(self, weights: dict[str, onnx.TensorProto], largest: Mapping[str, float]) -> None:
        self.weights = weights
        self.largest = largest
        self.done: set[str] = set()

    def convert(self, layer: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The layer, after what quantizes its input and restores its weight."""
        layer = onnx.NodeProto.FromString(layer.SerializeToString())
        value, weight = layer.input[:2]
        axis = _output_channels(layer, len(self.weights[weight].dims))
        restored = weight if axis is None else f"{weight}_axis{axis}"
        layer.input[0], layer.input[1] = f"{value}_dq", f"{restored}_dq"
        if layer.input[0] not in self.done:
            yield from self._activation(value)
        if layer.input[1] not in self.done:
            yield self._weight(weight, restored, axis)
        self.done |= {*layer.input[:2]}
        yield layer

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


def _output_channels(layer: onnx.NodeProto, dims: int) -> int | None:
    """The axis of the weight that output channels lie along; None where groups share it."""
    attributes = {attribute.name: attribute.i for attribute in layer.attribute}
    if layer.op_type == "Conv":
        return 0
    if layer.op_type == "ConvTranspose":
        return 1 if attributes.get("group", 1) == 1 else None
    if layer.op_type == "Gemm":
        return 0 if attributes.get("transB", 0) else 1
    return dims - 1
