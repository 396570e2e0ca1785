"""The fake-quantized twin: a bundle's INT8 engines as one differentiable defence.

Forward it computes what the engines do, every rounding and saturation included; backward the roundings are
straight-through. Adversarial examples of the FP32 twin are merely transferred to INT8 engines.
"""

from __future__ import annotations

from sdk.bundle import Bundle
from sdk.choices import GraphKind
from trainer.models import Defence
from trainer.models.engines import EngineClassifier, EnginePurifier, engine_defence
from trainer.models.twin import read_attackable

__all__ = ["EngineClassifier", "EnginePurifier", "read_quantized_twin"]


def read_quantized_twin(bundle: Bundle, kind: GraphKind = "gpu") -> Defence:
    """The INT8 engines of ``bundle`` as a defence, on the CPU; it can be attacked, not trained.

    Args:
        kind: the ONNX graphs to follow, where GPUs and CPUs run different ones.

    Raises:
        BackendError: the package onnx is absent.
        BundleError: the bundle has no INT8 engines, or graphs that can't be followed in torch.
    """
    unrounded = None if bundle.manifest.twin is None else read_attackable(bundle).purifier
    return engine_defence(bundle, "int8", kind, unrounded=unrounded)
