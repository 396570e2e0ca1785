"""An engine's ONNX graph as a differentiable torch function: what is attacked is the very graph that ships.

Engines take one image at a time, and that 1 is written into shapes all over a graph. So the graph is run as
it stands, and ``torch.vmap`` makes it one for a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sdk.errors import BackendError, BundleError
from trainer.robustness.defences.onnx_operators import OPERATORS

if TYPE_CHECKING:
    import onnx


class OnnxGraph(nn.Module):
    """One engine; rounding to INT8 is straight-through, see ``onnx_operators.FakeQuantize``.

    Args:
        path: its ONNX file, for messages alone if ``content`` is given.
        inputs: their names, in the order that a call takes them.
        content: the file's bytes, where they were read and verified already.

    Raises:
        BackendError: the package onnx is absent.
        BundleError: the graph has other inputs, or holds what has no counterpart here.
    """

    def __init__(self, path: Path, inputs: Sequence[str], *, content: bytes | None = None) -> None:
        super().__init__()
        onnx = _onnx()
        self.path, self.inputs = path, tuple(inputs)
        try:
            graph = (onnx.load(path) if content is None else onnx.load_model_from_string(content)).graph
        except Exception as error:  # protobuf's DecodeError has no public home
            raise BundleError(f"{path}: not an ONNX file", hint="export the bundle again") from error
        if (names := sorted(value.name for value in graph.input)) != sorted(inputs):
            raise BundleError(f"{path}: expected inputs {', '.join(inputs)}, got {', '.join(names)}")
        self._output = graph.output[0].name
        constants = {weight.name: _tensor(weight) for weight in graph.initializer}
        steps = list(_fake_quantized([_step(node, path) for node in graph.node], path))
        with _refusals(path):
            self._constants, self._steps = _folded(steps, constants, self._output)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The engine's output (B, …) for each row of ``inputs``, every one (B, …)."""
        rows = [given.unsqueeze(1) for given in inputs]  # each a batch of 1, as the engine takes it
        with _refusals(self.path):
            return torch.vmap(self._one)(*rows).squeeze(1)

    def _one(self, *inputs: Tensor) -> Tensor:
        values = self._constants | dict(zip(self.inputs, inputs, strict=True))
        for step in self._steps:
            values[step.output] = step.run(values)
            for name in step.last_use_of:
                del values[name]
        return values[self._output]


@dataclass(frozen=True)
class _Step:
    """A node; ``last_use_of`` are values that nothing after it takes."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)
    last_use_of: tuple[str, ...] = ()

    def run(self, values: dict[str, Tensor]) -> Tensor:
        given = [values[name] if name else None for name in self.inputs]
        return OPERATORS[self.operator](*given, **self.attributes)


def _step(node: onnx.NodeProto, path: Path) -> _Step:
    known = node.op_type == "QuantizeLinear" or node.op_type in OPERATORS
    if not known or node.domain or len(node.output) != 1:
        raise BundleError(f"{path}: operator {node.op_type} of node {node.name} has no counterpart in torch")
    value_of = _onnx().helper.get_attribute_value
    attributes = {attribute.name: value_of(attribute) for attribute in node.attribute}
    return _Step(node.op_type, tuple(node.input), node.output[0], attributes)


def _fake_quantized(steps: list[_Step], path: Path) -> Iterator[_Step]:
    """``steps`` with each QuantizeLinear and the DequantizeLinear behind it as one FakeQuantize."""
    quantized = {step.output: step for step in steps if step.operator == "QuantizeLinear"}
    for step in steps:
        codes = [quantized[name] for name in step.inputs if name in quantized]
        if not codes and step.operator != "QuantizeLinear":
            yield step
        for pair in codes:
            if step.operator != "DequantizeLinear" or step.inputs[1:] != pair.inputs[1:]:
                raise BundleError(
                    f"{path}: {pair.output} isn't restored as it was quantized", hint="export it again"
                )
            yield _Step("FakeQuantize", pair.inputs, step.output)


def _folded(
    steps: list[_Step], constants: dict[str, Tensor], output: str
) -> tuple[dict[str, Tensor], list[_Step]]:
    """What depends on no input, computed once, and the steps that are left."""
    known, left = dict(constants), []
    for step in steps:
        if all(name in known for name in step.inputs if name):
            known[step.output] = step.run(known)
        else:
            left.append(step)
    last = {name: place for place, step in enumerate(left) for name in step.inputs}
    ends: dict[int, list[str]] = {}
    for name in last.keys() - known.keys() - {"", output}:
        ends.setdefault(last[name], []).append(name)
    kept = {name: known[name] for name in known if name in last or name == output}
    return kept, [replace(step, last_use_of=tuple(ends.get(at, ()))) for at, step in enumerate(left)]


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What an operator refuses, as an error that names the file."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{path}: can't be followed in torch: {reason}") from error


def _tensor(weight: onnx.TensorProto) -> Tensor:
    """Weights of convolutions with channels last, which makes an attack's steps a seventh faster."""
    tensor = torch.from_numpy(_onnx().numpy_helper.to_array(weight).copy())
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise BackendError(
            f"INT8 engines are attacked through their ONNX graphs: can't import onnx ({error})",
            hint="pip install 'edge-purify[export]'",
        ) from None
    return onnx
