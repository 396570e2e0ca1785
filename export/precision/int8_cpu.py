"""INT8 for CPUs: unsigned asymmetric activations, signed weights with a scale for each output channel.

A CPU has integer kernels for whole chains: convolution, rectifier, residual addition, pooling. A runtime
uses them where every value between two of these operators is quantized, biases included, and where a
rectifier's zero is the lowest code, so that saturation does its work. TensorRT accepts zero point 0 alone,
so its graph is another one, made by ``export.precision.int8``.

Transposed convolutions have no integer kernel and stay in float.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from export.precision.graph import finished, output_channels, parse, residual_additions, weighted_layers
from export.precision.ranges import Interval

LAYERS = ("Conv", "Gemm", "MatMul")
POOLING = ("AveragePool", "GlobalAveragePool", "MaxPool")
RECTIFIERS = ("Relu", "Clip")
HIGHEST = 255  # codes of activations are 0 to 255
WEIGHT_STEPS = 127  # codes of weights are -127 to 127
BIAS_STEPS = 1 << 30  # codes of biases stay within: the accumulator is of 32 bits


def quantizable(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """The nodes that get integer arithmetic, by name, with the activations that each takes and makes.

    What a convolution makes is left out where a rectifier alone takes it: what that makes is quantized.
    """
    graph = model.graph
    layers = weighted_layers(model, LAYERS)
    additions = residual_additions(model)
    wiring = _Wiring(graph)
    found: dict[str, tuple[str, ...]] = {}
    for node in graph.node:
        if node.name in layers:
            # a linear layer may end in float; a convolution without a quantized output has no integer kernel
            made = wiring.made(node) if node.op_type == "Conv" else ()
            found[node.name] = (node.input[0], *made)
        elif node.name in additions:
            found[node.name] = (*node.input, *wiring.made(node))
        elif node.op_type in POOLING and wiring.follows(node, found):
            found[node.name] = (node.input[0], *wiring.made(node))
    return found


def quantize(data: bytes, intervals: Mapping[str, Interval], *, excluded: Collection[str] = ()) -> bytes:
    """The INT8 form for CPUs of the FP32 engine ``data``.

    Args:
        data: an engine's ONNX file.
        intervals: by value, the lowest and the highest number to represent; those beyond saturate.
        excluded: names of nodes that stay in FP32.

    Raises:
        ExportError: the quantized graph is not valid.
    """
    model = parse(data)
    chosen = {name: values for name, values in quantizable(model).items() if name not in excluded}
    kept_float = set(excluded) & {node.name for node in model.graph.node}
    quantized = {value for values in chosen.values() for value in values}
    conversion = _Conversion(model.graph, intervals, quantized)
    nodes = list(conversion.inputs())
    for node in model.graph.node:
        nodes += conversion.convert(node, is_layer=node.name in chosen, in_float=node.name in kept_float)
    return finished(model, nodes, conversion.weights.values())


class _Wiring:
    """Who makes and who takes the values of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.outputs = {value.name for value in graph.output}
        self.takers: dict[str, list[onnx.NodeProto]] = {}
        self.makers = {value: node for node in graph.node for value in node.output}
        for node in graph.node:
            for value in node.input:
                self.takers.setdefault(value, []).append(node)

    def made(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """What to quantize of a node's output: itself, its rectifier's, or nothing at the graph's end."""
        value = node.output[0]
        takers = self.takers.get(value, [])
        if len(takers) == 1 and takers[0].op_type in RECTIFIERS and value not in self.outputs:
            value = takers[0].output[0]
        return () if value in self.outputs else (value,)

    def follows(self, node: onnx.NodeProto, found: Collection[str]) -> bool:
        """Whether the node takes what an integer node makes, directly or through a rectifier."""
        maker = self.makers.get(node.input[0])
        if maker is not None and maker.op_type in RECTIFIERS:
            maker = self.makers.get(maker.input[0])
        return maker is not None and maker.name in found


class _Conversion:
    """Converts node after node: a Q/DQ pair after each quantized value, codes in place of weights."""

    def __init__(
        self, graph: onnx.GraphProto, intervals: Mapping[str, Interval], quantized: Collection[str]
    ) -> None:
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.graph = graph
        self.steps = {value: _step(*intervals[value]) for value in quantized}

    def inputs(self) -> Iterator[onnx.NodeProto]:
        """The pairs of the graph's own inputs."""
        for value in self.graph.input:
            if value.name in self.steps:
                yield from self._pair(value.name)

    def convert(self, node: onnx.NodeProto, *, is_layer: bool, in_float: bool) -> Iterator[onnx.NodeProto]:
        """The node, after what restores its weights and before what quantizes its output."""
        node = onnx.NodeProto.FromString(node.SerializeToString())
        if is_layer and len(node.input) > 1 and node.input[1] in self.weights and node.op_type in LAYERS:
            yield from self._restored(node)
        if not in_float:
            node.input[:] = [f"{value}_dq" if value in self.steps else value for value in node.input]
        yield node
        for value in node.output:
            if value in self.steps:
                yield from self._pair(value)

    def _pair(self, value: str) -> Iterator[onnx.NodeProto]:
        scale, zero = self.steps[value]
        self._add(f"{value}_scale", scale)
        self._add(f"{value}_zero", zero)
        by = [f"{value}_scale", f"{value}_zero"]
        yield helper.make_node("QuantizeLinear", [value, *by], [f"{value}_q"], name=f"{value}_q")
        yield helper.make_node("DequantizeLinear", [f"{value}_q", *by], [f"{value}_dq"], name=f"{value}_dq")

    def _restored(self, layer: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Put codes in place of the layer's weight, and of its bias where that is one for each channel."""
        values = numpy_helper.to_array(self.weights[layer.input[1]])
        axis = output_channels(layer, values.ndim)
        assert axis is not None, "only groups of a transposed convolution share output channels"
        by_channel = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        bias = self._bias(layer, len(by_channel))
        step, _ = self.steps[layer.input[0]]
        scale = np.abs(by_channel).max(axis=1) / WEIGHT_STEPS
        if bias is not None:  # a channel of tiny weights must leave room for its bias
            scale = np.maximum(scale, np.abs(bias) / (BIAS_STEPS * np.float64(step)))
        scale = np.where(scale > 0, scale, 1.0).astype(np.float32).clip(min=np.finfo(np.float32).tiny)
        shape = [-1 if place == axis else 1 for place in range(values.ndim)]
        codes = np.rint(values / scale.reshape(shape)).clip(-WEIGHT_STEPS, WEIGHT_STEPS).astype(np.int8)
        layer.input[1] = name = f"{layer.name}_weight_dq"
        yield self._constant(name, codes, scale, axis)
        if bias is not None:
            scale = scale * step
            codes = np.rint(bias / np.float64(scale)).astype(np.int32)
            layer.input[2] = name = f"{layer.name}_bias_dq"
            yield self._constant(name, codes, scale, 0)

    def _bias(self, layer: onnx.NodeProto, channels: int) -> npt.NDArray[np.floating] | None:
        """The layer's bias, if an integer kernel takes it."""
        attributes = {one.name: helper.get_attribute_value(one) for one in layer.attribute}
        plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0
        if len(layer.input) < 3 or layer.input[2] not in self.weights or not plain:
            return None
        bias = numpy_helper.to_array(self.weights[layer.input[2]])
        return bias if bias.shape == (channels,) else None

    def _constant(
        self, name: str, codes: npt.NDArray[np.generic], scale: npt.NDArray[np.float32], axis: int
    ) -> onnx.NodeProto:
        stem = name.removesuffix("_dq")
        self._add(f"{stem}_q", codes)
        self._add(f"{stem}_scale", scale)
        return helper.make_node(
            "DequantizeLinear", [f"{stem}_q", f"{stem}_scale"], [name], name=name, axis=axis
        )

    def _add(self, name: str, values: npt.NDArray[np.generic] | np.generic) -> None:
        self.weights[name] = numpy_helper.from_array(np.asarray(values), name)


def _step(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """The step between two codes, and the code of zero, which is represented exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    width = (high - low) / HIGHEST if high > low else 1.0
    scale = np.float32(max(width, float(np.finfo(np.float32).tiny)))
    return scale, np.uint8(np.rint(-low / float(scale)).clip(0, HIGHEST))
