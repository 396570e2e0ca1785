"""What the conversions share: the types of a graph's values, and the finished file."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx
from onnx import TensorProto

from export.torch_to_onnx import IR_VERSION, OPSET, ExportError


def parse(data: bytes) -> onnx.ModelProto:
    """An engine's file as a model."""
    return onnx.load_model_from_string(data)


def float_values(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 values: inputs, weights and what the nodes make."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return floats | {weight.name for weight in graph.initializer if weight.data_type == TensorProto.FLOAT}


def weighted_layers(model: onnx.ModelProto, operators: Collection[str]) -> set[str]:
    """Names of the layers among ``operators`` that multiply an activation by a weight.

    A product of two activations, as inside attention, is none.
    """
    weights = {
        weight.name
        for weight in model.graph.initializer
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1
    }
    return {
        node.name
        for node in model.graph.node
        if node.op_type in operators and node.input[1] in weights and node.input[0] not in weights
    }


def products(model: onnx.ModelProto) -> set[str]:
    """Names of all nodes that multiply an activation by something that no input changes, of any type."""
    fixed = {weight.name for weight in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        given = [value for value in node.input if value]
        if fixed.issuperset(given):
            fixed.update(node.output)
        elif node.op_type in _PRODUCTS and fixed.intersection(given[:2]):
            found.add(node.name)
    return found


def residual_additions(model: onnx.ModelProto) -> set[str]:
    """Names of the additions of two feature maps, each made by convolutions.

    Additions between the tokens of a transformer are none: their sum has a wider range than INT8 holds.
    """
    constants = {weight.name for weight in model.graph.initializer}
    maps: set[str] = set()
    found: set[str] = set()
    for node in model.graph.node:
        given = [value for value in node.input if value and value not in constants]
        if node.op_type == "Conv" or (node.op_type in _KEEP_MAPS and given and maps.issuperset(given)):
            maps.update(node.output)
            if node.op_type == "Add" and len(given) == 2:
                found.add(node.name)
    return found


def output_channels(layer: onnx.NodeProto, dims: int) -> int | None:
    """The axis of a layer's weight that output channels lie along; None where groups share it."""
    attributes = {attribute.name: attribute.i for attribute in layer.attribute}
    if layer.op_type == "Conv":
        return 0
    if layer.op_type == "ConvTranspose":
        return 1 if attributes.get("group", 1) == 1 else None
    if layer.op_type == "Gemm":
        return 0 if attributes.get("transB", 0) else 1
    return dims - 1


def finished(
    model: onnx.ModelProto,
    nodes: Iterable[onnx.NodeProto],
    weights: Iterable[onnx.TensorProto],
) -> bytes:
    """A checked file of the same inputs and outputs around new ``nodes``, with the weights that they take.

    It holds no shapes of inner values: every reader infers them, and in a small engine they are a tenth of
    the file.

    Raises:
        ExportError: the graph is not valid.
    """
    nodes = list(nodes)
    used = {value for node in nodes for value in node.input}
    graph = onnx.helper.make_graph(
        nodes,
        model.graph.name,
        model.graph.input,
        model.graph.output,
        [weight for weight in weights if weight.name in used],
    )
    made = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="edge-purify",
    )
    try:
        onnx.checker.check_model(made, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"{model.graph.name}: can't be converted: {reason}") from error
    return bytes(made.SerializeToString(deterministic=True))


_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_KEEP_MAPS = frozenset(
    {
        *("Add", "Mul", "Concat", "BatchNormalization"),
        *("Relu", "Clip", "LeakyRelu", "HardSwish", "Sigmoid", "HardSigmoid"),
        *("MaxPool", "AveragePool", "GlobalAveragePool"),
    }
)
