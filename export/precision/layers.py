"""Where in an engine an error arises: each layer's output against that of the FP32 engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.inputs.calibration import engine_feeds, self_made_images
from export.precision.graph import parse
from export.precision.int8 import OPERATORS
from export.precision.ranges import Feeds, Probe
from export.precision.weight_storage import expanded
from sdk.bundle import Bundle, Precision
from sdk.choices import GraphKind

N_IMAGES = 8


def worst_layers_of(
    bundle: Bundle, engine: str, precision: Precision, kind: GraphKind = "gpu"
) -> list[tuple[str, float]]:
    """``worst_layers`` of one engine of ``bundle``, on a few self-made pictures."""
    manifest = bundle.manifest
    found = next(one for one in manifest.engines if one.id == engine)
    files = found.graph(precision, kind), found.onnx["fp32"]
    data, reference = (expanded(bundle.read(file)) for file in files)
    return worst_layers(data, reference, engine_feeds(manifest, found, self_made_images(manifest, N_IMAGES)))


def worst_layers(
    data: bytes, reference: bytes, feeds: Sequence[Feeds], *, count: int = 3
) -> list[tuple[str, float]]:
    """The layers whose outputs are the furthest off, the worst first, with their relative RMS error.

    Args:
        data: an engine's ONNX file of a lower precision.
        reference: the FP32 file that it was made from.
        feeds: inputs to run both on.
        count: how many layers.
    """
    kept = {value for node in parse(data).graph.node for value in node.output}
    layers = {
        node.output[0]: node.name
        for node in parse(reference).graph.node
        if node.op_type in OPERATORS and node.output[0] in kept
    }
    if not layers:
        return []
    low, full = Probe(data, layers), Probe(reference, layers)
    error, power = dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0.0)
    for feed in feeds:
        expected, found = full.run(feed), low.run(feed)
        for value in layers:
            error[value] += float(np.square(found[value].astype(np.float64) - expected[value]).sum())
            power[value] += float(np.square(expected[value].astype(np.float64)).sum())
    off = {layers[value]: float(np.sqrt(error[value] / (power[value] or 1.0))) for value in layers}
    return sorted(off.items(), key=lambda item: -item[1])[:count]
