"""How to quantize one engine, chosen by measured error: the method, and the layers better left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.precision.graph import parse
from export.precision.int8 import quantizable, quantize
from export.precision.ranges import METHODS, Feeds, Ranges, session

AIM = 0.05  # relative error at which no further layer is excluded
MOST_EXCLUDED = 0.25  # of the layers: beyond that, INT8 isn't worth its name


@dataclass(frozen=True)
class Quantized:
    """An INT8 engine and how it came about.

    Attributes:
        data: its ONNX file.
        method: of calibration: "minmax", "percentile" or "entropy".
        excluded: layers in FP32, the most harmful first.
        error: root mean square error of the output on held-out inputs, over the output's standard deviation.
        errors: that, by method, with no layer excluded.
    """

    data: bytes
    method: str
    excluded: tuple[str, ...]
    error: float
    errors: dict[str, float]


def search(data: bytes, calibration: Sequence[Feeds], held_out: Sequence[Feeds]) -> Quantized:
    """Quantize the FP32 engine ``data``.

    The method with the least error on ``held_out`` is taken.  If that misses ``AIM``, every layer is left
    out once by itself, and those that gain the most stay out, one after the other, until the aim is met or a
    quarter are out.

    Raises:
        ExportError: a quantized graph isn't valid, or ONNX Runtime refuses it.
    """
    model = parse(data)
    layers = quantizable(model)
    name = model.graph.name
    ranges = Ranges(data, calibration, {*layers.values()})
    judge = _Judge(data, name, held_out)
    scales = {method: ranges.by(method) for method in METHODS}
    errors = {method: judge.error(quantize(data, scales[method])) for method in METHODS}
    method = min(errors, key=lambda method: errors[method])
    best = Quantized(quantize(data, scales[method]), method, (), errors[method], errors)
    if best.error <= AIM:
        return best
    alone = {layer: judge.error(quantize(data, scales[method], excluded=(layer,))) for layer in layers}
    order = sorted(alone, key=lambda layer: alone[layer])
    for count in range(1, int(MOST_EXCLUDED * len(layers)) + 1):
        excluded = tuple(order[:count])
        made = quantize(data, scales[method], excluded=excluded)
        if (error := judge.error(made)) < best.error:
            best = Quantized(made, method, excluded, error, errors)
        if best.error <= AIM:
            break
    return best


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
