"""Read a classifier's ONNX file as people have it: one image in, and the value that holds its scores out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from sdk.errors import UsageError

HALVES_AND_DOUBLES = (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
INTEGERS = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64)
CHOOSERS = ("ArgMax", "TopK")  # give class numbers for scores
SHAPERS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def read_model(path: Path) -> tuple[onnx.ModelProto, bytes]:
    """The model in ``path``, with the weights that lie in files beside it, and its bytes.

    Raises:
        UsageError: absent, or no ONNX model.
    """
    if not path.is_file():
        raise UsageError(f"classifier {path}: no such file")
    try:
        content = path.read_bytes()  # once: what is hashed is what is converted
        model = onnx.load_model_from_string(content)
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's, ONNX's and the file system's errors alike
        raise refusal(path, f"not readable as an ONNX model: {first_line(error)}") from None
    return model, content


def refuse_quantized(path: Path, model: onnx.ModelProto) -> None:
    """
    Raises:
        UsageError: the graph computes with integers already.
    """
    for node in model.graph.node:
        if node.op_type in QUANTIZERS or node.op_type.startswith("QLinear") or "Integer" in node.op_type:
            raise refusal(
                path,
                f"it is quantized already (operator {node.op_type})",
                "give the float model that it was made from; --precision int8 quantizes it here",
            )


def only_input(path: Path, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The image.

    Raises:
        UsageError: there are other inputs, or it is of a type that holds no image.
    """
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise refusal(path, f"expected one input, the image, got {[value.name for value in inputs]}")
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, *HALVES_AND_DOUBLES, *INTEGERS):
        raise refusal(path, f"expected an image of floats or integers, got {name_of(kind)}")
    return inputs[0]


def choose_output(path: Path, model: onnx.ModelProto, wanted: str | None) -> str:
    """The name of the scores, which becomes the only output."""
    outputs = {value.name: value for value in model.graph.output}
    makers = {value: node for node in model.graph.node for value in node.output if value}
    if wanted is not None:
        if wanted not in makers:
            near = ", ".join(map(repr, [*outputs, *_before_a_choice(outputs, makers)]))
            raise UsageError(f"--output {wanted}: {path} has no such value", hint=f"its outputs: {near}")
        name = wanted
    elif len(outputs) != 1:
        raise refusal(
            path,
            f"it has {len(outputs)} outputs: {', '.join(map(repr, outputs))}",
            "name the one that holds the scores by --output NAME",
        )
    else:
        (name,) = outputs
        kind = outputs[name].type.tensor_type.elem_type
        if candidates := _before_a_choice(outputs, makers):
            raise refusal(
                path,
                f"its output {name!r} is made by {_chooser(name, makers)}: class numbers or the largest "
                "scores alone",
                f"name the value that holds all scores: --output {candidates[0]}",
            )
        if kind not in (TensorProto.FLOAT, *HALVES_AND_DOUBLES):
            what = name_of(kind) if kind else "no tensor"
            raise refusal(
                path, f"its output {name!r} is {what}, expected scores", "name the scores by --output NAME"
            )
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    del model.graph.value_info[:]
    _prune(model)
    return name


def maker_of(model: onnx.ModelProto, name: str) -> str:
    """The operator that makes the values of ``name``, past those that only shape or clip them; "" if none."""
    makers = {value: node for node in model.graph.node for value in node.output if value}
    node = _past(name, makers, (*SHAPERS, "Clip"))
    return "" if node is None else str(node.op_type)


def _before_a_choice(outputs: Iterable[str], makers: dict[str, onnx.NodeProto]) -> list[str]:
    """What ArgMax and TopK choose from, where outputs are made by them."""
    found = []
    for name in outputs:
        node = _past(name, makers, SHAPERS)
        if node is not None and node.op_type in CHOOSERS:
            found.append(node.input[0])
    return list(dict.fromkeys(found))


def _chooser(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    node = _past(name, makers, SHAPERS)
    return node.op_type if node is not None else "nothing"


def _past(name: str, makers: dict[str, onnx.NodeProto], operators: tuple[str, ...]) -> onnx.NodeProto | None:
    """The node that makes ``name``, before any of ``operators``."""
    node = makers.get(name)
    while node is not None and node.op_type in operators:
        node = makers.get(node.input[0])
    return node


def _prune(model: onnx.ModelProto) -> None:
    """Remove nodes and weights that the output doesn't depend on."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed & {*node.output}:
            kept.append(node)
            needed |= {*node.input} | {value for each in _subgraph_inputs(node) for value in each}
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    weights = [weight for weight in model.graph.initializer if weight.name in needed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)


def _subgraph_inputs(node: onnx.NodeProto) -> Iterator[set[str]]:
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield {*inner.input}
                yield from _subgraph_inputs(inner)


def refusal(path: Path, what: str, hint: str | None = None) -> UsageError:
    return UsageError(f"classifier {path}: {what}", hint=hint)


def name_of(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
