"""TensorRT on a real GPU: golden outputs, parity with ONNX Runtime, and a frame's cost beyond its engines."""

from __future__ import annotations

import threading
from time import perf_counter

import numpy as np
import pytest

from sdk.backends.golden import Golden, replay
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.backends.tensorrt import TensorRtBackend
from sdk.benchmark import OVERHEAD_BOUND, natural_frame
from sdk.bundle import Bundle
from sdk.bundle.deviation import deviation
from sdk.draw import Drawer
from sdk.preprocess import Preprocessor, plan_resize
from sdk.purifier import Purifier

N_DRAWS = 64
N_FRAMES = 300
LAUNCH_BOUND_MS = (
    1.0  # a frame's time on the host beyond its time on the device: hand-over, launches, one wait
)


@pytest.fixture(scope="session")
def image(bundle: Bundle) -> np.ndarray:
    return Preprocessor(bundle.manifest.image)(natural_frame(640, 480)).copy()


def test_golden_outputs(bundle: Bundle, backend: TensorRtBackend) -> None:
    deviations = replay(bundle, backend, Golden.load(bundle, backend))
    assert [found.complaint for found in deviations if found.complaint] == []


def test_parity_with_onnx_runtime_under_fresh_draws(
    bundle: Bundle, backend: TensorRtBackend, image: np.ndarray
) -> None:
    reference = OnnxRuntimeBackend(bundle, backend.precision)
    draws = Drawer(bundle.manifest).draw(votes=N_DRAWS)
    ours = [backend.run(draw, image, want_purified=True) for draw in draws]
    theirs = [reference.run(draw, image, want_purified=True) for draw in draws]
    for output, got, expected in (
        ("purified image", [run.purified for run in ours], [run.purified for run in theirs]),
        ("logits", [run.logits for run in ours], [run.logits for run in theirs]),
    ):
        found = deviation(
            "bank", output, "ONNX Runtime", np.stack(got), np.stack(expected), backend.precision
        )
        assert found.complaint is None


def test_the_chain_on_the_device_is_its_two_halves(
    bundle: Bundle, backend: TensorRtBackend, image: np.ndarray
) -> None:
    for draw in Drawer(bundle.manifest).draw(votes=N_DRAWS):
        chained = backend.run(draw, image, want_purified=False)
        assert chained.purified is None
        purified = backend.purify(draw.purifier, image, draw.random_inputs)
        np.testing.assert_allclose(chained.logits, backend.classify(draw.classifier, purified), atol=1e-6)


def test_the_draw_reaches_the_picture(bundle: Bundle, backend: TensorRtBackend, image: np.ndarray) -> None:
    draws = Drawer(bundle.manifest).draw(votes=N_DRAWS)
    pictures = {backend.purify(draw.purifier, image, draw.random_inputs).tobytes() for draw in draws}
    assert len(pictures) >= min(len(bundle.manifest.purifiers), 3)


def test_threads_share_it(bundle: Bundle, backend: TensorRtBackend, image: np.ndarray) -> None:
    draw = Drawer(bundle.manifest).draw()[0]
    expected = backend.run(draw, image, want_purified=False).logits
    wrong: list[float] = []

    def work() -> None:
        for _ in range(50):
            logits = backend.run(draw, image, want_purified=False).logits
            if not np.allclose(logits, expected, atol=1e-6):
                wrong.append(float(np.abs(logits - expected).max()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_frame_costs_little_more_than_its_engines(bundle: Bundle, backend: TensorRtBackend) -> None:
    """The gate of ``edge-purify benchmark``, on a GPU; and what handing work over to it costs."""
    frame = natural_frame(1280, 720)
    plan = plan_resize(*frame.shape[:2], bundle.manifest.image.height, bundle.manifest.image.width)
    drawer, image = Drawer(bundle.manifest), Preprocessor(bundle.manifest.image)(frame).copy()
    ours_ms, bare_ms, launch_ms = [], [], []
    purifier = Purifier(bundle, backend, keep_purified=False)  # the fixture closes the backend
    for _ in range(N_FRAMES):
        ours_ms.append(purifier(frame).timings.total_ms)
        draw = drawer.draw()[0]
        start = perf_counter()
        plan.apply(frame)
        resized = perf_counter()
        inference = backend.run(draw, image, want_purified=False)
        end = perf_counter()
        bare_ms.append((end - start) * 1e3)
        launch_ms.append((end - resized - inference.purify_s - inference.classify_s) * 1e3)
    assert np.median(ours_ms) <= OVERHEAD_BOUND * np.median(bare_ms)
    assert np.median(launch_ms) <= LAUNCH_BOUND_MS
