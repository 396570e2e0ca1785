"""A quantized graph that ONNX accepts and TensorRT rejects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16


def rejected_graph(path: Path) -> None:
    """Write a purifier, image -> purified at 16 x 16, with Q/DQ on a constant that is no weight.

    Its offset is stored as INT8 codes that are transposed before they are dequantized, as a quantizer with a
    too generous list of operators leaves it.  TensorRT wants DequantizeLinear right after such a constant.
    """
    shape = [1, 3, SIDE, SIDE]
    nodes = [
        helper.make_node("Transpose", ["codes"], ["turned"], name="Transpose_0", perm=[0, 1, 3, 2]),
        helper.make_node("DequantizeLinear", ["turned", "scale"], ["offset"], name="DequantizeLinear_0"),
        helper.make_node("Add", ["image", "offset"], ["purified"], name="Add_0"),
    ]
    constants = {
        "codes": np.arange(3 * SIDE * SIDE, dtype=np.int16).reshape(shape).astype(np.int8),
        "scale": np.float32(1e-4),
    }
    graph = helper.make_graph(
        nodes,
        "purifier-00",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("purified", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
