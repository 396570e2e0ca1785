"""Every engine that ships: TensorRT-RTX builds it, and ONNX Runtime runs its INT8 graphs optimized or not.

The command that does the same: ``edge-export engines BUNDLE --target rtx``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from export.tensorrt.build import Options, build_plan
from sdk.backends.golden import Golden
from sdk.bundle import Bundle, Engine, Precision
from sdk.bundle.deviation import deviation
from sdk.choices import BUNDLE_PRECISIONS, GraphKind
from sdk.draw import encode_subset
from sdk.host.hardware import has_exact_int8

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(path.parent for path in ROOT.glob("s*/bundles/*/bundle.json"))
LEVELS = onnxruntime.GraphOptimizationLevel


@pytest.fixture(scope="module", params=SHIPPED, ids=lambda folder: folder.name)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(request.param)


def test_bundles_ship() -> None:
    assert len(SHIPPED) >= 2


@pytest.mark.parametrize("precision", BUNDLE_PRECISIONS)
def test_every_engine_builds(bundle: Bundle, precision: Precision) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'edge-purify[rtx]'")
    for engine in bundle.manifest.engines:
        assert build_plan(trt, bundle.read(engine.onnx[precision]), Options(256)).plan, engine.id


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_int8_runs_optimized_and_not(bundle: Bundle, kind: GraphKind) -> None:
    """On some processors fused 8-bit kernels saturate, and need not agree; run they must anyway."""
    images = Golden.load(bundle).images.astype(np.float32) / 255
    for engine in bundle.manifest.engines:
        data = bundle.read(engine.graph("int8", kind))
        plain = run(engine, data, images, LEVELS.ORT_DISABLE_ALL)
        fused = run(engine, data, images, LEVELS.ORT_ENABLE_ALL)
        assert np.isfinite(plain).all()
        assert np.isfinite(fused).all()
        if has_exact_int8():
            output = "purified image" if engine in bundle.manifest.purifiers else "logits"
            assert deviation(engine.id, output, "as it says", fused, plain, "int8").complaint is None


def run(engine: Engine, data: bytes, images: np.ndarray, level: object) -> np.ndarray:
    """The engine's outputs for ``images``, (N, 3, H, W), one after the other."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feeds = {spec.name: encode_subset(spec, np.arange(spec.take)) for spec in engine.random_inputs}
    return np.concatenate([session.run(None, {"image": image[None], **feeds})[0] for image in images])
