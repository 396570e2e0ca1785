"""Read an ONNX graph into steps: its nodes, its constants, and which of these are weights to train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sdk.errors import BackendError, BundleError
from trainer.models.onnx_graph.operators import OPERATORS

if TYPE_CHECKING:
    import onnx

#: Places of the inputs that are weights, by operator.
WEIGHTS = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
}
OFFSETS = ("Add", "Div", "Mul", "Sub")  # with a constant of several values: bias, scale or embedding
MOVERS = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")  # of a weight before its use


@dataclass(frozen=True)
class Step:
    """A node."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    node: str = ""

    @property
    def says(self) -> str:
        return f"operator {self.operator} of node {self.node or self.outputs[0]}"


@dataclass(frozen=True)
class Program:
    """A graph as it is written.

    Attributes:
        inputs: names of what it is given.
        output: the name of its result.
        steps: in order; each QuantizeLinear and its DequantizeLinear are one.
        constants: by name.
        weights: names of those constants that training may change.
        opset: ONNX's version.
    """

    inputs: tuple[str, ...]
    output: str
    steps: tuple[Step, ...]
    constants: dict[str, Tensor]
    weights: tuple[str, ...]
    opset: int


def read(path: Path, content: bytes | None, output: str | None) -> tuple[Program, bytes]:
    """The graph in ``path``, or in ``content``, and the bytes of its file with all weights inside.

    Raises:
        BackendError: the package onnx is absent.
        BundleError: it is no ONNX file, or holds what has no counterpart in torch.
    """
    onnx = import_onnx()
    try:
        data = path.read_bytes() if content is None else content
        model = onnx.load_model_from_string(data)
        if content is None and _is_external(model):
            model = onnx.load(path)
            data = model.SerializeToString(deterministic=True)
    except OSError as error:
        raise BundleError(f"{path}: can't be read: {error.strerror or error}") from None
    except Exception as error:  # protobuf's DecodeError has no public home
        raise BundleError(f"{path}: not an ONNX file", hint="export it again") from error
    graph = model.graph
    constants = {weight.name: _tensor(weight) for weight in graph.initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    wanted = output or graph.output[0].name
    steps = []
    for node in _needed(graph, wanted, path):
        if node.op_type == "Constant" and not node.domain:
            constants[node.output[0]] = _constant(node, path)
        else:
            steps.append(_step(node, path))
    fused = tuple(_fake_quantized(steps, path))
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    weights = tuple(_weights(fused, constants, inputs))
    return Program(inputs, wanted, fused, constants, weights, int(opset)), data


def with_weights(content: bytes, weights: Mapping[str, Tensor]) -> bytes:
    """The same file with other values in ``weights``; the same bytes where none differs."""
    onnx = import_onnx()
    model = onnx.load_model_from_string(content)
    changed = False
    for name, tensor in _tensors(model):
        if name in weights:
            before = onnx.numpy_helper.to_array(tensor)
            after = weights[name].detach().cpu().contiguous().numpy().astype(before.dtype)
            if not np.array_equal(before, after):
                tensor.CopyFrom(onnx.numpy_helper.from_array(after, tensor.name))
                changed = True
    return bytes(model.SerializeToString(deterministic=True)) if changed else content


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for weight in model.graph.initializer:
        yield weight.name, weight
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.output[0], attribute.t


def _is_external(model: onnx.ModelProto) -> bool:
    return any(weight.data_location == weight.EXTERNAL for weight in model.graph.initializer)


def _needed(graph: onnx.GraphProto, output: str, path: Path) -> list[onnx.NodeProto]:
    """The nodes that ``output`` depends on, in order."""
    needed, kept = {output}, []
    for node in reversed(graph.node):
        if needed & {name for name in node.output if name}:
            kept.append(node)
            needed |= {*node.input}
    if not kept:
        raise BundleError(f"{path}: no node makes its output {output}")
    return kept[::-1]


def _step(node: onnx.NodeProto, path: Path) -> Step:
    known = node.op_type == "QuantizeLinear" or node.op_type in OPERATORS
    if not known or node.domain not in ("", "ai.onnx"):
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise BundleError(
            f"{path}: operator {name} of node {node.name or node.output[0]} has no counterpart in torch",
            hint="export the model with ONNX's standard operators, without control flow",
        )
    value_of = import_onnx().helper.get_attribute_value
    attributes = {attribute.name: value_of(attribute) for attribute in node.attribute}
    for name, value in attributes.items():
        if type(value).__name__ == "TensorProto":
            attributes[name] = _tensor(value)
    attributes.pop("consumed_inputs", None)  # of opset 1
    return Step(node.op_type, tuple(node.input), tuple(node.output), attributes, node.name)


def _constant(node: onnx.NodeProto, path: Path) -> Tensor:
    (attribute,) = node.attribute
    value = import_onnx().helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return _tensor(value)
    if attribute.name in ("value_float", "value_floats"):
        return torch.tensor(value, dtype=torch.float32)
    if attribute.name in ("value_int", "value_ints"):
        return torch.tensor(value, dtype=torch.int64)
    raise BundleError(f"{path}: operator Constant of node {node.name} holds {attribute.name}, not numbers")


def _fake_quantized(steps: list[Step], path: Path) -> Iterator[Step]:
    """``steps`` with each QuantizeLinear and the DequantizeLinear behind it as one FakeQuantize."""
    quantized = {step.outputs[0]: step for step in steps if step.operator == "QuantizeLinear"}
    for step in steps:
        codes = [quantized[name] for name in step.inputs if name in quantized]
        if not codes and step.operator != "QuantizeLinear":
            yield step
        for pair in codes:
            if step.operator != "DequantizeLinear" or step.inputs[1:] != pair.inputs[1:]:
                raise BundleError(
                    f"{path}: {pair.outputs[0]} isn't restored as it was quantized", hint="export it again"
                )
            yield Step("FakeQuantize", pair.inputs, step.outputs, node=pair.node)


def _weights(steps: tuple[Step, ...], constants: dict[str, Tensor], inputs: tuple[str, ...]) -> Iterator[str]:
    """Float constants that layers multiply, and those added or multiplied behind the first layer.

    What stands before the first layer is the image's normalization, and single numbers are arithmetic.
    """
    makers = {step.outputs[0]: step for step in steps if step.operator in MOVERS}
    depends, behind, seen = {*inputs}, set[str](), set[str]()
    for step in steps:
        if depends.isdisjoint(step.inputs):
            continue
        depends |= {*step.outputs}
        layer = step.operator in WEIGHTS
        if layer or any(name in behind for name in step.inputs):
            behind |= {*step.outputs}
            places = WEIGHTS.get(step.operator, range(2) if step.operator in OFFSETS else ())
            for place in places:
                name = _origin(step.inputs[place], makers) if place < len(step.inputs) else ""
                value = None if name in depends or name in seen else constants.get(name)
                if value is not None and value.is_floating_point() and (layer or value.numel() > 1):
                    seen.add(name)
                    yield name


def _origin(name: str, makers: Mapping[str, Step]) -> str:
    while name in makers:
        name = makers[name].inputs[0]
    return name


def _tensor(weight: onnx.TensorProto) -> Tensor:
    """Weights of convolutions with channels last, which makes an attack's steps a seventh faster."""
    array = import_onnx().numpy_helper.to_array(weight)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    tensor = torch.from_numpy(array.copy())
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def import_onnx() -> Any:
    """The package.

    Raises:
        BackendError: it is absent.
    """
    try:
        import onnx
    except ImportError as error:
        raise BackendError(
            f"ONNX graphs are followed in torch by the package onnx: can't import onnx ({error})",
            hint="pip install 'edge-purify[export]'",
        ) from None
    return onnx
