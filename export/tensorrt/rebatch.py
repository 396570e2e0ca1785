"""An engine's ONNX file for several images at a time, from the one for a single image.

The first dimension of every input and output becomes the batch, and so does the 1 that heads the shape of a
Reshape or Expand of what depends on an input; constants that such tensors are joined with are repeated. Other
graphs may hold the batch elsewhere, so the result is run: in ONNX Runtime, each row must come out as it does
by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from export.tensorrt.build import BuildError
from sdk.bundle import Engine
from sdk.draw import encode_subset

TOLERANCES = {"fp32": 1e-3, "fp16": 0.05, "int8": 0.05}  # of a row's range; INT8 may round to the next code


def with_batch(onnx_file: bytes, batch: int, engine: Engine, precision: str) -> bytes:
    """``onnx_file``, an engine's graph of a single image, for ``batch`` images.

    Raises:
        BuildError: the graph can't take several images, or onnx is not installed.
    """
    where = f"engine {engine.id} ({precision}): a batch of {batch}: "
    try:
        import onnx
    except ImportError:
        raise BuildError(f"{where}needs the package onnx", hint="pip install 'edge-purify[export]'") from None
    model = onnx.load_model_from_string(onnx_file)
    _widen(model.graph, batch, onnx.numpy_helper)
    rebatched: bytes = model.SerializeToString()
    try:
        error = _error(onnx_file, rebatched, engine, batch)
    except Exception as failure:  # ONNX Runtime raises many kinds
        reason = " ".join(str(failure).split())[:200]
        raise BuildError(f"{where}its graph can't take several images: {reason}") from None
    if not error <= TOLERANCES[precision]:
        raise BuildError(
            f"{where}its graph mixes the images: a row is off by {error:.2g} of its range",
            hint="leave --batch out",
        )
    return rebatched


def _widen(graph: Any, batch: int, numpy_helper: Any) -> None:
    """Set the batch of inputs, outputs and shapes, and repeat constants that don't broadcast."""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.value_info[:]
    initializers = {tensor.name: tensor for tensor in graph.initializer}

    def replace(node: Any, position: int, array: np.ndarray) -> None:
        name = f"{node.input[position]}_batch_{batch}"
        if name not in initializers:
            initializers[name] = numpy_helper.from_array(array, name)
            graph.initializer.append(initializers[name])
        node.input[position] = name

    depends = {value.name for value in graph.input} - set(initializers)
    for node in graph.node:
        if depends.isdisjoint(node.input):
            continue
        depends.update(node.output)
        constants = {
            position: numpy_helper.to_array(initializers[name])
            for position, name in enumerate(node.input)
            if name in initializers
        }
        for position in _SHAPES.get(node.op_type, ()):
            shape = constants.get(position)
            if shape is not None and shape.size and shape[0] == 1:
                replace(node, position, np.array([batch, *shape[1:]], np.int64))
        for position in range(len(node.input)) if node.op_type == "Concat" else _WHOLE.get(node.op_type, ()):
            whole = constants.get(position)
            if whole is not None and whole.ndim > 1 and whole.shape[0] == 1:
                replace(node, position, np.repeat(whole, batch, axis=0))


_SHAPES = {"Reshape": (1,), "Expand": (1,)}  # inputs that are shapes
_WHOLE = {
    "ScatterElements": (0, 1, 2),
    "GatherElements": (0, 1),
}  # inputs that must have the batch


def _error(single: bytes, several: bytes, engine: Engine, batch: int) -> float:
    """How far a row of random images is off, as a share of its output's range, at most."""
    one, many = _session(single), _session(several)
    rng = np.random.default_rng(0)
    image = next(node for node in one.get_inputs() if node.name == "image")
    rows = []
    for _ in range(batch):
        row = {"image": rng.random(image.shape, np.float32)}
        for spec in engine.random_inputs:
            row[spec.name] = encode_subset(spec, np.sort(rng.permutation(spec.size)[: spec.take]))
        rows.append(row)
    (found,) = many.run(None, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    expected = np.concatenate([one.run(None, row)[0] for row in rows])
    if found.shape != expected.shape:
        raise ValueError(f"expected an output of shape {list(expected.shape)}, got {list(found.shape)}")
    return float(np.abs(found - expected).max() / max(1e-6, float(np.ptp(expected))))


def _session(onnx_file: bytes) -> Any:
    """A session that computes the graph as it is: with optimizations, INT8 saturates on some CPUs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
