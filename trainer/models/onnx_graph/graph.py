"""An ONNX graph as a differentiable torch module: what is attacked or trained through is the very graph.

The graph is written for one image, and that 1 stands in shapes all over it. It is run for a whole batch where
that gives each image what it gets alone, which is checked once; otherwise ``torch.vmap`` makes it one for a
batch. Everything that depends on shapes alone is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdk.errors import BundleError
from trainer.models.onnx_graph.nodes import Program, Step, read, with_weights
from trainer.models.onnx_graph.operators import OPERATORS, Operator

PLANS = 32  # kept, of the shapes that a graph was run for
SAME = 1e-4  # of the largest output: how far an image's output in a batch may be off that alone


class OnnxGraph(nn.Module):
    """One ONNX graph; rounding to INT8 is straight-through, see ``quantization.FakeQuantize``.

    Its weights are parameters, in eval mode for good: statistics of norms never change.

    Args:
        path: its file, for messages alone if ``content`` is given.
        inputs: their names, in the order that a call takes them; by default the graph's.
        content: the file's bytes, where they were read and verified already.
        output: the value that is its result, by default its first output.

    Attributes:
        content: the file's bytes, with the weights that it was read with.

    Raises:
        BackendError: the package onnx is absent.
        BundleError: the graph has other inputs, or holds what has no counterpart here.
    """

    def __init__(
        self,
        path: Path,
        inputs: Sequence[str] | None = None,
        *,
        content: bytes | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__()
        program, self.content = read(path, content, output)
        self.path, self.inputs = path, program.inputs if inputs is None else tuple(inputs)
        if (names := sorted(program.inputs)) != sorted(self.inputs):
            raise BundleError(f"{path}: expected inputs {', '.join(self.inputs)}, got {', '.join(names)}")
        self.output, self.opset = program.output, program.opset
        self._parameter_of = {name: f"weight_{place}" for place, name in enumerate(program.weights)}
        for name, attribute in self._parameter_of.items():
            self.register_parameter(attribute, nn.Parameter(program.constants.pop(name)))
        with _refusals(path):
            constants, self._steps = _folded(program, {*self._parameter_of})
        self._buffer_of = {name: f"constant_{place}" for place, name in enumerate(constants)}
        for name, attribute in self._buffer_of.items():
            self.register_buffer(attribute, constants[name], persistent=False)
        shaped = any(step.operator in ("Shape", "Size") for step in self._steps)
        self._by_batch = shaped  # else one plan serves every batch
        self._plans: dict[tuple[object, ...], _Plan] = {}
        self._in_batches: bool | None = None  # not known yet

    def forward(self, *inputs: Tensor) -> Tensor:
        """The graph's output (B, …) for each row of ``inputs``, every one (B, …)."""
        if len(inputs[0]) > 1 and self._in_batches is None:
            self._in_batches = self._can_batch(inputs)
        if len(inputs[0]) == 1 or self._in_batches:
            found = self._plan(inputs).run(self._values(inputs), len(inputs[0]))
            return found if self._in_batches else found[None].squeeze(1)
        plan = self._plan(tuple(given[:1] for given in inputs))
        with _refusals(self.path):
            rows = [given.unsqueeze(1) for given in inputs]  # each a batch of 1, as the graph takes it
            return torch.vmap(lambda *row: plan.run(self._values(row), 1))(*rows).squeeze(1)

    def onnx_bytes(self) -> bytes:
        """The file with the weights as they are now; its own bytes where they haven't changed."""
        return with_weights(
            self.content, {name: getattr(self, at) for name, at in self._parameter_of.items()}
        )

    def _apply(self, fn: Any, recurse: bool = True) -> OnnxGraph:
        self._plans.clear()  # they hold constants of another device or type
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        return self

    def _values(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        values = {name: getattr(self, attribute) for name, attribute in self._parameter_of.items()}
        values.update(zip(self.inputs, inputs, strict=True))
        return values

    @torch.no_grad()
    def _can_batch(self, inputs: tuple[Tensor, ...]) -> bool:
        """Whether a batch gives the first and last image what they get alone."""
        count = len(inputs[0])
        alone = []
        with torch.autocast(inputs[0].device.type, enabled=False):
            for place in (0, count - 1):
                row = tuple(given[place : place + 1] for given in inputs)
                alone.append(self._plan(row).run(self._values(row), 1)[None].squeeze(1))
            try:
                together = self._plan(inputs).run(self._values(inputs), count)
            except (BundleError, RuntimeError, ValueError, LookupError, TypeError):
                return False
        expected = torch.cat(alone)
        if together.shape != (count, *expected.shape[1:]):
            return False
        off = (together[[0, -1]] - expected).abs().max()
        return bool(off <= SAME * expected.abs().max().clamp(min=1e-3))

    def _plan(self, inputs: tuple[Tensor, ...]) -> _Plan:
        first = 0 if self._by_batch else 1
        key = tuple((tuple(given.shape[first:]), given.device) for given in inputs)
        if not self._by_batch and len(inputs[0]) > 1:
            inputs = tuple(given[:1] for given in inputs)
        if key not in self._plans:
            if len(self._plans) >= PLANS:
                self._plans.pop(next(iter(self._plans)))
            constants = {name: getattr(self, attribute) for name, attribute in self._buffer_of.items()}
            count, alone = len(inputs[0]), None
            if count > 1:
                alone = self._plan(tuple(given[:1] for given in inputs))
            with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False), _refusals(self.path):
                values = self._values(inputs)
                facts = _Facts(self.output, self.opset, count, alone)
                self._plans[key] = _planned(self._steps, constants, values, facts)
        return self._plans[key]


@dataclass(frozen=True)
class _Bound:
    """A step whose known inputs are filled in; ``last_use_of`` are values that nothing after it takes."""

    step: Step
    operator: Operator
    given: tuple[tuple[str | None, Any], ...]  # the value's name, or None and what it is
    keywords: dict[str, Any]
    takes_batch: bool
    last_use_of: tuple[str, ...] = ()

    def run(self, values: dict[str, Tensor], batch: int) -> Tensor | tuple[Tensor, ...]:
        given = [known if name is None else values[name] for name, known in self.given]
        more = {"batch": batch} if self.takes_batch else {}
        return self.operator.run(*given, **self.keywords, **more)


@dataclass(frozen=True)
class _Plan:
    """The steps that are left for images of one shape.

    Attributes:
        constant: an output that depends on no image.
        shapes: of all values.
        numbers: what each Reshape was given, by its output.
    """

    steps: tuple[_Bound, ...]
    output: str
    constant: Tensor | None
    shapes: dict[str, tuple[int, ...]]
    numbers: dict[str, list[int]]

    def run(self, values: dict[str, Tensor], batch: int) -> Tensor:
        if self.constant is not None:
            return self.constant
        for bound in self.steps:
            _keep(values, bound.step, bound.run(values, batch))
            for name in bound.last_use_of:
                values.pop(name, None)
        return values[self.output]


def _keep(values: dict[str, Tensor], step: Step, made: Tensor | tuple[Tensor, ...]) -> None:
    if isinstance(made, Tensor):
        values[step.outputs[0]] = made
    else:
        values.update(zip(step.outputs, made, strict=True))


def _folded(program: Program, weights: set[str]) -> tuple[dict[str, Tensor], tuple[Step, ...]]:
    """What depends on neither image nor weights, computed once, and the steps that are left."""
    known, left = dict(program.constants), []
    for step in program.steps:
        if all(name in known for name in step.inputs if name):
            with _of(step), torch.no_grad():
                bound = _bind(step, known, program.opset, 1)
                _keep(known, step, bound.run({}, 1))
        else:
            left.append(step)
    used = {name for step in left for name in step.inputs} | {program.output}
    return {name: value for name, value in known.items() if name in used}, tuple(left)


@dataclass(frozen=True)
class _Facts:
    """What planning needs to know; ``alone`` is the plan for one image, for a batch of more."""

    output: str
    opset: int
    batch: int
    alone: _Plan | None


def _planned(
    steps: tuple[Step, ...], constants: dict[str, Tensor], values: dict[str, Tensor], facts: _Facts
) -> _Plan:
    """Run the steps once: what turns out to depend on shapes alone is known from here on."""
    known, kept = dict(constants), list[_Bound]()
    output, batch = facts.output, facts.batch
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    numbers: dict[str, list[int]] = {}
    for step in steps:
        with _of(step):
            is_known = all(name in known for name in step.inputs if name)
            bound = _bind(step, known, facts.opset, batch)
            if "single" in bound.operator.takes:
                name = step.outputs[0]
                numbers[name] = bound.given[1][1]
                bound.keywords["single"] = _single(step, shapes, numbers[name], facts.alone)
            made = bound.run(values, batch)
            if is_known or step.operator in ("Shape", "Size"):
                _keep(known, step, made)
            else:
                _keep(values, step, made)
                kept.append(bound)
                shapes |= {name: tuple(values[name].shape) for name in step.outputs if name in values}
    if output in known:
        return _Plan((), output, known[output], shapes, numbers)
    last = {name: place for place, bound in enumerate(kept) for name, _ in bound.given if name is not None}
    ends: dict[int, list[str]] = {}
    for name, place in last.items():
        if name != output:
            ends.setdefault(place, []).append(name)
    finished = [
        _Bound(b.step, b.operator, b.given, b.keywords, b.takes_batch, tuple(ends.get(place, ())))
        for place, b in enumerate(kept)
    ]
    return _Plan(tuple(finished), output, None, shapes, numbers)


def _single(
    step: Step, shapes: dict[str, tuple[int, ...]], given: list[int], alone: _Plan | None
) -> tuple[int, ...] | None:
    """The shape of a Reshape's input for one image; None where its target follows the batch by itself."""
    if alone is None:
        return shapes.get(step.inputs[0])
    return alone.shapes.get(step.inputs[0]) if alone.numbers.get(step.outputs[0]) == given else None


def _bind(step: Step, known: dict[str, Tensor], opset: int, batch: int) -> _Bound:
    operator = OPERATORS[step.operator]
    given: list[tuple[str | None, Any]] = []
    for place, name in enumerate(step.inputs):
        value = known.get(name)
        if not name:
            given.append((None, None))
        elif place in operator.numbers:
            if value is None:
                raise ValueError(f"its input {name} depends on the image")
            given.append((None, _number(value, place)))
        elif value is not None:
            is_scalar = place in operator.scalars and value.numel() == 1 and value.ndim == 0
            given.append((None, value.item() if is_scalar else value))
        else:
            given.append((name, None))
    keywords = dict(step.attributes)
    if "opset" in operator.takes:
        keywords["opset"] = opset
    if "n_outputs" in operator.takes:
        keywords["n_outputs"] = len(step.outputs)
    return _Bound(step, operator, tuple(given), keywords, "batch" in operator.takes)


def _number(value: Tensor, place: int) -> Any:
    """A number, or a list of them."""
    return value.item() if value.ndim == 0 else value.tolist()


@contextmanager
def _of(step: Step) -> Iterator[None]:
    """Errors of a step, with its name."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise ValueError(f"{step.says}: {error}") from error


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What an operator refuses, as an error that names the file."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{path}: can't be followed in torch: {reason}") from error
