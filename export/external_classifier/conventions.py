"""How a foreign classifier wants its image, as the first nodes of its graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trainer.config.conventions import Conventions

__all__ = ["Conventions", "front_nodes"]


def front_nodes(conventions: Conventions) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """``Conventions.apply`` in a graph: nodes and their weights, from ``image`` to the value ``given``."""
    mean, std = (
        np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (conventions.mean, conventions.std)
    )
    weights = {
        "front_order": np.array([2, 1, 0], np.int64),
        "front_scale": np.float32(conventions.range) / std,
        "front_shift": mean / std,
    }
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if conventions.color == "bgr":
        steps.append(("Gather", ["front_order"], {"axis": 1}))
    steps += [("Mul", ["front_scale"], {}), ("Sub", ["front_shift"], {})]
    if conventions.layout == "nhwc":
        steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
    made, nodes = "image", []
    for operator, others, attributes in steps:
        last, made = made, f"front_{operator}"
        nodes.append(helper.make_node(operator, [last, *others], [made], name=made, **attributes))
    nodes[-1].output[0] = "given"
    return nodes, [numpy_helper.from_array(values, name) for name, values in weights.items()]
