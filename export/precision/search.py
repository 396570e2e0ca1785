"""How to quantize one engine, chosen by measured error: the method, and the layers better left alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from export.precision import int8, int8_cpu
from export.precision.graph import parse, products
from export.precision.ranges import METHODS, Feeds, Ranges, session
from export.precision.weight_storage import expanded
from sdk.errors import GateError

AIM = 0.05  # relative error at which no further layer is excluded
MAX_EXCLUDED = 0.25  # of the layers: beyond that, INT8 isn't worth its name
MIN_QUANTIZED = 0.5  # of the products with weights, in number: below that, a file isn't INT8


class Scheme(NamedTuple):
    """A way to quantize: what it quantizes of a model, and how, by the ranges of one method."""

    quantizable: Callable[[onnx.ModelProto], dict[str, tuple[str, ...]]]
    quantize: Callable[[bytes, Ranges, str, Collection[str]], bytes]


TENSORRT = Scheme(
    int8.quantizable,
    lambda data, ranges, method, excluded: int8.quantize(data, ranges.by(method), excluded=excluded),
)
CPU = Scheme(
    int8_cpu.quantizable,
    lambda data, ranges, method, excluded: int8_cpu.quantize(
        data, ranges.intervals(method), excluded=excluded
    ),
)


@dataclass(frozen=True)
class Quantized:
    """An INT8 engine and how it came about.

    Attributes:
        data: its ONNX file.
        method: of calibration: "minmax", "percentile" or "entropy".
        excluded: layers in FP32, the most harmful first.
        error: root mean square error of the output on held-out inputs, over the output's standard deviation.
        errors: that, by method, with no layer excluded.
        n_quantized, n_products: layers in INT8, out of the engine's products with weights.
    """

    data: bytes
    method: str
    excluded: tuple[str, ...]
    error: float
    errors: dict[str, float]
    n_quantized: int
    n_products: int


def search(
    data: bytes, calibration: Sequence[Feeds], held_out: Sequence[Feeds], scheme: Scheme = TENSORRT
) -> Quantized:
    """Quantize the FP32 engine ``data``.

    The method with the least error on ``held_out`` is taken. If that misses ``AIM``, every layer is left
    out once by itself, and those that gain the most stay out, one after the other, until the aim is met or a
    quarter are out.

    Raises:
        ExportError: a quantized graph isn't valid, or ONNX Runtime refuses it.
        GateError: less than half of the engine can be quantized.
    """
    data = expanded(data)
    model = parse(data)
    layers = scheme.quantizable(model)
    name = model.graph.name
    multiplying = products(model)
    _check_share(name, len(multiplying & layers.keys()), len(multiplying))
    ranges = Ranges(data, calibration, {value for values in layers.values() for value in values})
    judge = _Judge(data, name, held_out)

    def made(method: str, excluded: tuple[str, ...] = ()) -> bytes:
        return scheme.quantize(data, ranges, method, excluded)

    def found(excluded: tuple[str, ...], error: float) -> Quantized:
        kept = multiplying & layers.keys() - {*excluded}
        return Quantized(made(method, excluded), method, excluded, error, errors, len(kept), len(multiplying))

    errors = {method: judge.error(made(method)) for method in METHODS}
    method = min(errors, key=lambda method: errors[method])
    best = found((), errors[method])
    if best.error <= AIM:
        return best
    alone = {layer: judge.error(made(method, (layer,))) for layer in layers}
    order = sorted(alone, key=lambda layer: alone[layer])
    for count in range(1, int(MAX_EXCLUDED * len(layers)) + 1):
        excluded = tuple(order[:count])
        if (error := judge.error(made(method, excluded))) < best.error:
            best = found(excluded, error)
        if best.error <= AIM:
            break
    return best


def _check_share(name: str, quantized: int, total: int) -> None:
    """Refuse to call INT8 what stays mostly float."""
    if quantized == 0 or quantized < MIN_QUANTIZED * total:
        raise GateError(
            f"{name}: {quantized} of its {total} products with weights can be quantized, "
            f"expected at least {MIN_QUANTIZED:.0%}",
            hint="export it with float32 weights, as constants of the graph, or leave int8 out",
        )


class _Judge:
    """The error of an engine's outputs against those of the FP32 engine."""

    def __init__(self, data: bytes, name: str, feeds: Sequence[Feeds]) -> None:
        self.name, self.feeds = name, feeds
        self.expected = self._outputs(data)
        self.spread = float(self.expected.std()) or 1.0

    def error(self, data: bytes) -> float:
        return float(np.sqrt(np.mean((self._outputs(data) - self.expected) ** 2))) / self.spread

    def _outputs(self, data: bytes) -> npt.NDArray[np.float32]:
        runs = session(data, self.name)
        return np.concatenate([runs.run(None, dict(feed))[0] for feed in self.feeds])
