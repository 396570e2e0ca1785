"""What TensorRT 10.3 takes, checked on graphs without TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.checks.trt_operators import OperatorError, check_bundle, check_operators, complaints
from sdk.bundle import Bundle
from tests.export.spoil import rehash

Node = onnx.NodeProto
make = helper.make_node


def graph(
    *nodes: Node,
    opset: int = 18,
    dtype: int = TensorProto.FLOAT,
    out: int | None = None,
    shape: tuple[int, ...] = (1, 3, 8, 8),
    **constants: Any,
) -> onnx.ModelProto:
    """A model from the input ``x`` to the output ``y``."""
    made = helper.make_graph(
        list(nodes),
        "engine",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype if out is None else out, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def why(model: onnx.ModelProto) -> list[str]:
    return [complaint.why for complaint in complaints(model)]


@pytest.mark.parametrize("family", ["lowered", "maep_lowered"])
def test_every_graph_of_the_exporter_passes(family: str, request: pytest.FixtureRequest) -> None:
    check_bundle(Bundle.open(request.getfixturevalue(family)))


def test_of_a_bundle_the_engine_and_precision_are_named(bundle_copy: Path) -> None:
    path = bundle_copy / "onnx" / "classifier-01.onnx"
    model = onnx.load(path)
    model.graph.node[0].op_type = "Compress"
    path.write_bytes(model.SerializeToString())
    rehash(bundle_copy)
    with pytest.raises(
        OperatorError, match=r"^classifier-01 \(fp32\): TensorRT 10\.3 doesn't take Compress "
    ):
        check_bundle(Bundle.open(bundle_copy))


ZERO, SCALE = np.int8(0), np.float32(0.1)

TAKEN = {
    "convolution": graph(make("Conv", ["x", "w"], ["y"]), w=np.ones((4, 3, 3, 3), np.float32)),
    "half precision": graph(make("Relu", ["x"], ["y"]), dtype=TensorProto.FLOAT16),
    "indices": graph(make("Gather", ["x", "i"], ["y"]), i=np.array([0])),
    "integers": graph(make("Add", ["x", "one"], ["y"]), dtype=TensorProto.INT64, one=np.array(1)),
    "quantized": graph(
        make("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make("DequantizeLinear", ["q", "s", "z"], ["y"]),
        s=SCALE,
        z=ZERO,
    ),
    "constant node": graph(
        make("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([2]))),
        make("ReduceMean", ["x", "axes"], ["y"]),
    ),
    "choice": graph(
        make("Greater", ["x", "t"], ["c"]), make("Where", ["c", "x", "t"], ["y"]), t=np.float32(0)
    ),
}


@pytest.mark.parametrize("model", TAKEN.values(), ids=TAKEN)
def test_what_it_takes(model: onnx.ModelProto) -> None:
    check_operators(model, "engine")


REFUSED = {
    "an operator beyond the list": (graph(make("Det", ["x"], ["y"])), "the operator isn't on the list"),
    "a foreign domain": (
        graph(make("Gelu", ["x"], ["y"], domain="com.microsoft")),
        "of the domain com.microsoft, expected ONNX's own",
    ),
    "doubles": (
        graph(make("Relu", ["x"], ["y"]), dtype=TensorProto.DOUBLE),
        "'x' is double, expected float, float16",
    ),
    "whole numbers in a float operator": (
        graph(make("Sqrt", ["x"], ["y"]), dtype=TensorProto.INT32),
        "'x' is int32, expected float, float16",
    ),
    "a newer opset": (graph(make("Relu", ["x"], ["y"]), opset=21), "opset 21, expected 9 to 20"),
    "scattering by slices": (
        graph(
            make("ScatterND", ["x", "i", "u"], ["y"]), i=np.array([[0]]), u=np.zeros((1, 3, 8, 8), np.float32)
        ),
        "needs TensorRT 10.9; use ScatterElements",
    ),
    "scattering by sums": (
        graph(
            make("ScatterElements", ["x", "i", "x"], ["y"], reduction="add"), i=np.zeros((1, 3, 8, 8), int)
        ),
        "a reduction needs a plugin",
    ),
    "an asymmetric zero point": (
        graph(
            make("QuantizeLinear", ["x", "s", "z"], ["q"]),
            make("DequantizeLinear", ["q", "s", "z"], ["y"]),
            s=SCALE,
            z=np.int8(3),
        ),
        "its zero point must be 0",
    ),
    "an unsigned zero point": (
        graph(make("QuantizeLinear", ["x", "s", "z"], ["y"]), out=TensorProto.UINT8, s=SCALE, z=np.uint8(0)),
        "its zero point must be a constant of int8",
    ),
    "a quantized bias": (
        graph(make("DequantizeLinear", ["b", "s"], ["y"]), b=np.ones(3, np.int32), s=SCALE),
        "'b' is int32, expected int8",
    ),
    "a scale that is computed": (
        graph(
            make("ReduceMax", ["x"], ["s"], keepdims=0),
            make("QuantizeLinear", ["x", "s", "z"], ["y"]),
            out=TensorProto.INT8,
            z=ZERO,
        ),
        "its scale must be a constant",
    ),
    "axes that are computed": (
        graph(make("Shape", ["x"], ["axes"]), make("ReduceMean", ["x", "axes"], ["y"])),
        "its axes must be a constant",
    ),
    "statistics of a norm": (
        graph(
            make("LayerNormalization", ["x", "g"], ["y", "mean", "deviation"]),
            g=np.ones(8, np.float32),
        ),
        "only its first output is supported",
    ),
    "cubic interpolation": (
        graph(make("Resize", ["x", "", "s"], ["y"], mode="cubic"), s=np.array([1, 1, 2, 2], np.float32)),
        "cubic interpolation isn't supported",
    ),
    "an antialiased resize": (
        graph(
            make("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1),
            s=np.array([1, 1, 0.5, 0.5], np.float32),
        ),
        "antialiasing isn't supported",
    ),
    "a dilated pool": (
        graph(make("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2])),
        "dilations aren't supported",
    ),
    "padding of chosen axes": (
        graph(make("Pad", ["x", "p", "", "a"], ["y"]), p=np.array([1, 1]), a=np.array([3])),
        "axes as an input need TensorRT 10.4",
    ),
    "a whole exponent": (graph(make("Pow", ["x", "two"], ["y"]), two=np.array(2)), "needs TensorRT 10.8"),
}


@pytest.mark.parametrize(("model", "complaint"), REFUSED.values(), ids=REFUSED)
def test_what_it_does_not_take(model: onnx.ModelProto, complaint: str) -> None:
    found = why(model)
    assert any(complaint in each for each in found), found


def test_one_line_names_the_engine_and_every_node() -> None:
    model = graph(make("Det", ["x"], ["d"], name="Det_0"), make("Hardmax", ["d"], ["y"], name="Hardmax_0"))
    with pytest.raises(
        OperatorError,
        match=r"^p-00 \(fp16\): TensorRT 10\.3 doesn't take Det 'Det_0': .*; Hardmax 'Hardmax_0': .*list$",
    ):
        check_operators(model, "p-00 (fp16)")
