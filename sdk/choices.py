"""Names that options, code and files share: precisions, backends, execution providers.

Imports nothing but ``typing``, so a command can offer the choices in its ``--help`` without loading what they
name.
"""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "int8"]
OnnxBackend = Literal["onnxruntime", "openvino"]  # run a bundle's ONNX files
EngineBackend = Literal["tensorrt", "tensorrt-rtx"]  # run engines that were built from them
Provider = Literal["cpu", "cuda", "tensorrt"]  # what ONNX Runtime runs on
CudaBinding = Literal["auto", "cuda-python", "pycuda"]  # what calls CUDA for the engine backends
GraphKind = Literal["gpu", "cpu"]  # what an ONNX graph was made for

ONNX_BACKENDS: tuple[OnnxBackend, ...] = get_args(OnnxBackend)
ENGINE_BACKENDS: tuple[EngineBackend, ...] = get_args(EngineBackend)
BUNDLE_PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # from the most to the least exact
BACKENDS: tuple[str, ...] = ("auto", *ONNX_BACKENDS, *ENGINE_BACKENDS)
PRECISIONS: tuple[str, ...] = ("auto", *BUNDLE_PRECISIONS)
CUDA_BINDINGS: tuple[CudaBinding, ...] = get_args(CudaBinding)
PROVIDERS: tuple[Provider, ...] = get_args(Provider)

#: What people call the engine backends.
ENGINE_NAMES: dict[EngineBackend, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
