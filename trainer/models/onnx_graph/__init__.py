"""ONNX graphs as differentiable torch modules: engines under attack, and classifiers that users bring."""

from __future__ import annotations

from trainer.models.onnx_graph.graph import OnnxGraph
from trainer.models.onnx_graph.operators import OPERATORS
from trainer.models.onnx_graph.quantization import FakeQuantize

__all__ = ["OPERATORS", "FakeQuantize", "OnnxGraph"]
