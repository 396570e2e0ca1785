"""A real TensorRT build of an ONNX graph, on a machine without a GPU."""

from __future__ import annotations

import pytest

from sdk.backends.tensorrt_log import log_of


def build_size_bytes(data: bytes) -> int:
    """Size of the engine that TensorRT-RTX builds from the ONNX file ``data``; 0 if the builder refuses."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'edge-purify[rtx]'")
    logger = log_of(trt)  # lives as long as the process: TensorRT keeps the first one
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(data), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    return 0 if plan is None else int(plan.nbytes)
