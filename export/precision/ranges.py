"""The values inside an engine under real inputs and draws, and how large a value INT8 should represent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from export.precision.graph import float_values, parse
from export.torch_to_onnx import ExportError

Feeds = Mapping[str, npt.NDArray[Any]]
Interval = tuple[float, float]  #: the lowest and the highest number that codes represent
BINS = 2048
PERCENTILE = 99.99
LEVELS = 128  # of a symmetric INT8 code's absolute value


class Ranges:
    """Histograms of the absolute values of some of an engine's values over ``feeds``.

    Args:
        data: an FP32 engine's ONNX file.
        feeds: what it is run on, one after the other, twice.
        values: names of inner values or inputs; all float values by default.

    Attributes:
        largest: by value, the largest absolute value seen.
        seen: by value, the lowest and the highest number seen.
    """

    def __init__(self, data: bytes, feeds: Sequence[Feeds], values: Iterable[str] | None = None) -> None:
        probe = Probe(data, values)
        self.seen: dict[str, Interval] = dict.fromkeys(probe.values, (0.0, 0.0))
        for found in map(probe.run, feeds):
            for name, value in found.items():
                low, high = self.seen[name]
                self.seen[name] = (
                    min(low, float(value.min(initial=0))),
                    max(high, float(value.max(initial=0))),
                )
        self.largest = {name: max(-low, high) for name, (low, high) in self.seen.items()}
        self._probe, self._feeds = probe, feeds
        self._counts: dict[str, npt.NDArray[np.int64]] = {}

    def by(self, method: str) -> dict[str, float]:
        """The largest value to represent, by value, as one of ``METHODS`` has it."""
        if method == "minmax":
            return dict(self.largest)
        return {
            name: METHODS[method](counts) * self.largest[name] / BINS
            for name, counts in self._histograms().items()
        }

    def intervals(self, method: str) -> dict[str, Interval]:
        """The same for codes that need not be symmetric: what was seen, cut at the largest by ``method``."""
        limits = self.by(method)
        return {
            name: (max(low, -limits[name]), min(high, limits[name]))
            for name, (low, high) in self.seen.items()
        }

    def _histograms(self) -> dict[str, npt.NDArray[np.int64]]:
        if not self._counts:
            self._counts = {name: np.zeros(BINS, np.int64) for name in self.largest}
            for found in map(self._probe.run, self._feeds):
                for name, value in found.items():
                    span = (0.0, self.largest[name] or 1.0)
                    self._counts[name] += np.histogram(np.abs(value), BINS, span)[0]
        return self._counts


class Probe:
    """An engine that tells inner values: a session whose outputs they are.

    Args:
        data: an engine's ONNX file.
        values: names; all float values that nodes make, and all inputs, by default.
    """

    def __init__(self, data: bytes, values: Iterable[str] | None = None) -> None:
        model = parse(data)
        inputs = {value.name for value in model.graph.input}
        made = {name for node in model.graph.node for name in node.output}
        wanted = float_values(model) & (made | inputs) if values is None else {*values}
        self.inputs = sorted(wanted & inputs)
        self.inner = sorted(wanted & made)
        self.values = (*self.inputs, *self.inner)
        known = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.inner if name not in known)
        self.session = session(model.SerializeToString(), model.graph.name)

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[np.floating]]:
        """The values under one set of inputs."""
        found = (
            dict(zip(self.inner, self.session.run(self.inner, dict(feeds)), strict=True))
            if self.inner
            else {}
        )
        return found | {name: np.asarray(feeds[name], np.float32) for name in self.inputs}


def session(data: bytes, name: str) -> onnxruntime.InferenceSession:
    """An engine as TensorRT computes it: unfused, since fused 8-bit kernels saturate on CPUs without VNNI.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own error classes share no narrower base
        reason = " ".join(str(error).split())
        raise ExportError(f"{name}: ONNX Runtime can't load the converted graph: {reason}") from error


def _percentile(counts: npt.NDArray[np.int64]) -> float:
    """The number of bins below which ``PERCENTILE`` of all values lie."""
    share = np.cumsum(counts) / max(counts.sum(), 1)
    return float(np.searchsorted(share, PERCENTILE / 100) + 1)


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    """The number of bins whose 128 INT8 levels lose the least information, by Kullback and Leibler.

    As published for TensorRT (Migacz, '8-bit inference with TensorRT', GTC 2017).
    """
    if not counts[1:].any():
        return float(BINS)
    counts = counts.copy()
    counts[0] = counts[1]  # zero is exact at any scale, and after a rectifier it would outweigh all else
    candidates = range(LEVELS, BINS + 1, LEVELS // 4)
    return float(min(candidates, key=lambda bins: _divergence(counts, bins)))


def _divergence(counts: npt.NDArray[np.int64], bins: int) -> float:
    kept = counts[:bins].astype(np.float64)
    clipped = kept.copy()
    clipped[-1] += counts[bins:].sum()
    level = np.arange(bins) * LEVELS // bins
    filled = kept > 0
    total, members = np.bincount(level, kept, LEVELS), np.bincount(level, filled, LEVELS)
    coarse = np.where(filled, total[level] / np.maximum(members[level], 1), 0.0)
    p, q = clipped / clipped.sum(), coarse / max(coarse.sum(), 1.0)
    both = (p > 0) & (q > 0)
    missed = p[(p > 0) & (q == 0)].sum()  # saturated values in a bin that was empty
    return float((p[both] * np.log(p[both] / q[both])).sum() + missed * np.log(1e6))


METHODS: dict[str, Callable[[npt.NDArray[np.int64]], float]] = {
    "minmax": lambda counts: float(BINS),
    "percentile": _percentile,
    "entropy": _entropy,
}
