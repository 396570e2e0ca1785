"""Weights stored in half the space: FP16 in the file, cast to FP32 in the graph, the same values exactly.

A trained defence has weights that FP16 represents (``trainer.checkpoint.finish`` rounds them), and the
exporter multiplies some of them by a batch norm's factor for each output channel. ``compressed`` stores such
a weight as ``Cast(half)`` or ``Mul(Cast(half), factor)`` where that gives the same FP32 values bit for bit,
and leaves every other weight alone. Inference engines fold both when they load. ``expanded`` is the inverse,
for conversions that need to see the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.precision.graph import finished, parse

MIN_VALUES = 256  # a smaller weight saves less than its cast takes
FACTOR_ROUNDING = range(-2, 3)  # units in the last place that a factor, recovered by division, may be off

Weights = npt.NDArray[np.float32]


def compressed(data: bytes, originals: Iterable[Weights] = ()) -> bytes:
    """The FP32 engine ``data`` with its weights in FP16 wherever that is exact.

    Args:
        data: an engine's ONNX file.
        originals: weights as they were before batch norms were folded into them.

    Raises:
        ExportError: the graph is not valid.
    """
    model = parse(data)
    by_shape: dict[tuple[int, ...], list[Weights]] = {}
    for original in originals:
        if original.ndim > 1 and _is_half(original):
            by_shape.setdefault(original.shape, []).append(original)
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for weight in model.graph.initializer:
        stored = None
        if weight.data_type == TensorProto.FLOAT and np.prod(weight.dims) >= MIN_VALUES:
            values = numpy_helper.to_array(weight)
            stored = _halved(weight.name, values, by_shape.get(values.shape, []))
        if stored is None:
            weights.append(weight)
        else:
            weights += stored[0]
            nodes += stored[1]
    if not nodes:
        return data
    # inner values keep their shapes in the file, as the exporter wrote them
    inferred = parse(finished(model, [*nodes, *model.graph.node], weights))
    inferred = onnx.shape_inference.infer_shapes(inferred, strict_mode=True)
    return bytes(inferred.SerializeToString(deterministic=True))


def expanded(data: bytes) -> bytes:
    """The engine ``data`` with every FP32 weight as one initializer; the inverse of ``compressed``.

    Any ``Cast`` of a constant from FP16, and any product of constants, is folded by float32 arithmetic.

    Raises:
        ExportError: the graph is not valid.
    """
    model = parse(data)
    weights = {weight.name: weight for weight in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        values = None if outputs & {*node.output} else _folded(node, weights)
        if values is None:
            nodes.append(node)
        else:
            weights[node.output[0]] = numpy_helper.from_array(values, node.output[0])
    return data if len(nodes) == len(model.graph.node) else finished(model, nodes, weights.values())


def _halved(
    name: str, values: Weights, originals: Iterable[Weights]
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]] | None:
    """Initializers and nodes that make ``values`` under ``name`` from an FP16 weight, if any do exactly."""
    cast, half, scale = f"{name}_cast", f"{name}_half", f"{name}_factor"
    if _is_half(values):
        return [_tensor(values.astype(np.float16), half)], [_cast(half, name)]
    for original in originals:
        factor = _factor(values, original)
        if factor is not None:
            weights = [_tensor(original.astype(np.float16), half), _tensor(factor, scale)]
            product = helper.make_node("Mul", [cast, scale], [name], name=f"{name}_Mul")
            return weights, [_cast(half, cast), product]
    return None


def _factor(values: Weights, original: Weights) -> Weights | None:
    """The factor per output channel that turns ``original`` into ``values`` bit for bit, if there is one."""
    rows, given = values.reshape(len(values), -1), original.reshape(len(values), -1)
    place = np.abs(given).argmax(1)[:, None]
    largest = np.take_along_axis(given, place, 1)[:, 0]
    divisor = np.where(largest == 0, np.float32(1), largest)
    quotient = np.where(largest == 0, np.float32(1), np.take_along_axis(rows, place, 1)[:, 0] / divisor)
    if not np.isfinite(quotient).all():
        return None
    factor = np.full(len(values), np.nan, np.float32)
    for factors in _neighbours(quotient.astype(np.float32)):
        exact = (given * factors[:, None] == rows).all(1)
        factor = np.where(np.isnan(factor) & exact, factors, factor)
    return None if np.isnan(factor).any() else factor.reshape(-1, *[1] * (values.ndim - 1))


def _neighbours(factor: Weights) -> Iterator[Weights]:
    for steps in sorted(FACTOR_ROUNDING, key=abs):
        yield factor + np.float32(steps) * np.spacing(factor)


def _is_half(values: Weights) -> bool:
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())


def _folded(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> Weights | None:
    """What ``node`` makes of constants alone, if it is a cast from FP16 or a product of FP32 values."""
    if node.op_type not in ("Cast", "Mul") or not all(value in weights for value in node.input):
        return None
    dtypes = {weights[value].data_type for value in node.input}
    given = [numpy_helper.to_array(weights[value]) for value in node.input]
    if node.op_type == "Mul":
        return given[0] * given[1] if dtypes == {TensorProto.FLOAT} else None
    to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
    return given[0].astype(np.float32) if (dtypes, to) == ({TensorProto.FLOAT16}, TensorProto.FLOAT) else None


def _cast(half: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [half], [target], name=f"{target}_Cast", to=TensorProto.FLOAT)


def _tensor(values: npt.NDArray[np.floating], name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values), name)
