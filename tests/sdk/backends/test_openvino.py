"""The OpenVINO backend beyond what ``test_sessions`` asks: precisions, settings, and a silent import."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sdk.backends.golden import Golden, replay
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.backends.openvino import OpenVinoBackend
from sdk.bundle import Bundle, Precision, default_bundle
from sdk.draw import Drawer

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.open(default_bundle())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_golden_outputs_of_the_shipped_bundle(shipped: Bundle, precision: Precision) -> None:
    with closing(OpenVinoBackend(shipped, precision)) as backend:
        deviations = replay(shipped, backend, Golden.load(shipped))
    engines = shipped.manifest.engines
    assert {found.engine for found in deviations} == {engine.id for engine in engines}
    assert [found.complaint for found in deviations if found.complaint] == []


def test_fp32_is_that_of_onnx_runtime(shipped: Bundle) -> None:
    size = shipped.manifest.image
    rng = np.random.default_rng(0)
    with closing(OpenVinoBackend(shipped)) as one, closing(OnnxRuntimeBackend(shipped)) as other:
        for draw in Drawer(shipped.manifest, seed=0).draw(8):
            image = rng.random((1, 3, size.height, size.width), np.float32)
            ours, theirs = (backend.run(draw, image, want_purified=True) for backend in (one, other))
            np.testing.assert_allclose(ours.purified, theirs.purified, atol=1e-5)
            np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-4)


def test_arithmetic_is_float32_and_no_thread_is_pinned(tiny_bundle: Path) -> None:
    with closing(OpenVinoBackend(Bundle.open(tiny_bundle))) as backend:
        purifiers, classifiers = backend.compiled_models()
        assert (len(purifiers), len(classifiers)) == (3, 2)
        for compiled in (*purifiers, *classifiers):
            assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
            assert compiled.get_property("ENABLE_CPU_PINNING") is False
            assert compiled.get_property("NUM_STREAMS") == 1


def test_the_import_does_not_report_itself(tmp_path: Path) -> None:
    """OpenVINO's import sends an event by the package openvino-telemetry, where that can be imported."""
    spy = tmp_path / "openvino_telemetry"
    spy.mkdir()
    (spy / "__init__.py").write_text("print('telemetry imported'); raise ImportError('barred by the test')")

    def said(program: str) -> str:
        return python(program, PYTHONPATH=str(tmp_path)).stdout

    assert "telemetry imported" in said("import openvino")
    after = "import sys; print('openvino_telemetry' in sys.modules)"
    assert said(f"import sdk.backends.openvino; {after}") == "False\n"
    of_the_application = "import sys; sys.modules['openvino_telemetry'] = sys"
    assert said(f"{of_the_application}; import sdk.backends.openvino; {after}") == "True\n"


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_where_it_is_not_installed_one_line_names_the_extra(precision: str) -> None:
    program = "import sys; sys.modules['openvino'] = None; from sdk.cli import main; main()"
    options = ["--source", "samples/clips/clean.avi", "--backend", "openvino", "--precision", precision]
    done = python(program, *options)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-purify: error: backend openvino: can't be imported (")
    assert line.endswith("; pip install 'edge-purify[openvino]'")


def python(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``program`` in a process of its own, in the checkout."""
    command = [sys.executable, "-c", program, *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, cwd=CHECKOUT, env=variables
    )
