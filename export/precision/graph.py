"""What the conversions share: the types of a graph's values, and the finished file."""

from __future__ import annotations

from collections.abc import Iterable

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
