"""The ONNX Runtime backend: it runs what the bundle holds, and an error names the engine that failed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from sdk.backends import onnxruntime as module
from sdk.backends import open_backend
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import MANIFEST, Bundle, sha256_of
from sdk.errors import BackendError

IMAGE = np.linspace(0, 1, 3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16)
ALL_KEPT = {"atom_mask": np.ones((1, 12), np.float32)}


@pytest.fixture
def backend(tiny_bundle: Path) -> Iterator[OnnxRuntimeBackend]:
    opened = OnnxRuntimeBackend(Bundle.open(tiny_bundle))
    yield opened
    opened.close()


def test_purifiers_differ_and_follow_their_mask(tiny_bundle: Path, backend: OnnxRuntimeBackend) -> None:
    none_kept = {"atom_mask": np.zeros((1, 12), np.float32)}
    pictures = [backend.purify(i, IMAGE, ALL_KEPT) for i in range(3)]
    for i, picture in enumerate(pictures):
        shifts = initializer(tiny_bundle / f"onnx/purifier-{i:02d}.onnx", "shifts")
        expected = np.clip(IMAGE + shifts.sum(axis=0).reshape(1, 3, 1, 1), 0, 1)
        np.testing.assert_allclose(picture, expected, atol=1e-6)
        np.testing.assert_allclose(backend.purify(i, IMAGE, none_kept), IMAGE, atol=1e-6)
    assert not np.array_equal(pictures[0], pictures[1])


def test_classifiers_give_their_logits(backend: OnnxRuntimeBackend) -> None:
    colour = IMAGE.mean(axis=(2, 3))[0]
    for j, sharpness in enumerate((4.0, 5.0)):
        expected = sharpness * np.append(colour, 0.25)
        np.testing.assert_allclose(backend.classify(j, IMAGE)[0], expected, rtol=1e-5)


def test_it_says_what_it_is(backend: OnnxRuntimeBackend) -> None:
    assert (backend.name, backend.precision) == ("onnxruntime", "fp32")
    assert backend.version[0].isdigit()


def test_fast_engines_stay_on_one_thread_and_slow_ones_get_all(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(tiny_bundle)
    monkeypatch.setattr(module, "available_cpus", lambda: 2)
    monkeypatch.setattr(module, "SLOW_MS", 1e9)
    assert OnnxRuntimeBackend(bundle).threads == 1
    monkeypatch.setattr(module, "SLOW_MS", 0.0)
    many = OnnxRuntimeBackend(bundle)
    assert many.threads == 2
    assert many.bare_sessions()[0][0].get_session_options().intra_op_num_threads == 2
    monkeypatch.setattr(module, "available_cpus", lambda: 1)
    assert OnnxRuntimeBackend(bundle).threads == 1


def test_the_callers_threads_are_kept_and_never_spin(tiny_bundle: Path) -> None:
    purifiers, classifiers = OnnxRuntimeBackend(Bundle.open(tiny_bundle), threads=2).bare_sessions()
    assert (len(purifiers), len(classifiers)) == (3, 2)
    for session in (*purifiers, *classifiers):
        options = session.get_session_options()
        assert options.intra_op_num_threads == 2
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_wrong_input_names_the_engine(backend: OnnxRuntimeBackend) -> None:
    with pytest.raises(BackendError, match=r"engine purifier-01 .*failed while running"):
        backend.purify(1, IMAGE, {"atom_mask": np.ones((1, 11), np.float32)})
    with pytest.raises(BackendError, match=r"engine purifier-01 .*failed while running"):
        backend.purify(1, IMAGE, {})
    with pytest.raises(BackendError, match=r"engine classifier-00 .*failed while running") as caught:
        backend.classify(0, IMAGE.astype(np.float64))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_onnx_names_the_engine(bundle_copy: Path) -> None:
    replace(bundle_copy, "onnx/classifier-01.onnx", b"not an engine")
    with pytest.raises(BackendError, match=r"engine classifier-01 .*can't load it: .*export the bundle anew"):
        OnnxRuntimeBackend(Bundle.open(bundle_copy))


def test_an_engine_of_another_signature_is_refused(bundle_copy: Path) -> None:
    purifier = (bundle_copy / "onnx/purifier-00.onnx").read_bytes()
    replace(bundle_copy, "onnx/classifier-01.onnx", purifier)
    with pytest.raises(
        BackendError, match=r"engine classifier-01 .*expected inputs image float32 \[1, 3, 16, 16\]"
    ):
        OnnxRuntimeBackend(Bundle.open(bundle_copy))


def test_more_labels_than_logits_are_refused_before_the_first_frame(bundle_copy: Path) -> None:
    replace(bundle_copy, "labels.txt", b"red\ngreen\nblue\ndark\nviolet\n")
    with pytest.raises(
        BackendError, match=r"expected outputs logits float32 \[1, 5\], got logits float32 \[1, 4\]"
    ):
        OnnxRuntimeBackend(Bundle.open(bundle_copy))


@pytest.mark.parametrize("backend_name", ["auto", "onnxruntime"])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_auto_is_onnx_runtime_in_fp32(tiny_bundle: Path, backend_name: str, precision: str) -> None:
    opened = open_backend(Bundle.open(tiny_bundle), backend_name, precision)
    assert (opened.name, opened.precision) == ("onnxruntime", "fp32")


def test_a_precision_the_bundle_lacks_names_those_it_has(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="no int8 engines in it; choose --precision fp32"):
        open_backend(Bundle.open(tiny_bundle), "auto", "int8")


@pytest.mark.parametrize(
    ("missing", "mend"),
    [("onnxruntime", "pip install onnxruntime"), ("cv2", "pip install 'edge-purify[opencv]'")],
)
def test_a_missing_library_is_one_line_with_the_mend(tiny_bundle: Path, missing: str, mend: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None  # what Python leaves when an import is barred
from sdk.errors import BackendError
try:
    from sdk import Purifier
    Purifier.load({str(tiny_bundle)!r})
except BackendError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300
    )
    assert mend in done.stdout
    assert done.stdout.count("\n") == 1


def initializer(path: Path, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer if i.name == name)


def replace(bundle: Path, name: str, content: bytes) -> None:
    """Change a file and the manifest's hash of it, as a faulty exporter would."""
    manifest, path = bundle / MANIFEST, bundle / name
    before = sha256_of(path)
    path.write_bytes(content)
    manifest.write_text(manifest.read_text().replace(before, sha256_of(path)))
