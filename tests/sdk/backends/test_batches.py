"""Engines for several images at a time, on strict fakes: who shares a run, and that each row is as alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.tensorrt.build import BuildError
from sdk import Bundle, Purifier
from sdk.backends.cuda import CudaPython, Driver
from sdk.backends.engine_set import shared_runs
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.backends.plan_store import Host, built_engines, cache_folder, find_engine
from sdk.backends.tensorrt import TensorRtBackend
from sdk.draw import Drawer
from sdk.errors import BackendError
from tests.sdk.backends.test_tensorrt import Named, with_index_purifiers
from tests.sdk.fakes.built import write_engines
from tests.sdk.fakes.cuda_bindings import FakeCudaBindings
from tests.sdk.fakes.gpu import FakeGpu
from tests.sdk.fakes.tensorrt import FakeTensorRt

BATCH = 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", Named)


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def driver_of(gpu: FakeGpu) -> Callable[[], Driver]:
    return lambda: CudaPython(FakeCudaBindings(gpu))


def opened(bundle: Bundle, gpu: FakeGpu, *batches: int) -> TensorRtBackend:
    for batch in (1, *batches):
        write_engines(bundle, batch=batch)
    return TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=driver_of(gpu))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, 16, 16), np.float32)


@pytest.mark.parametrize("count", [1, 2, 7, 16])
@pytest.mark.parametrize("want_purified", [False, True])
def test_each_row_is_as_it_is_alone(count: int, want_purified: bool, bundle: Bundle, gpu: FakeGpu) -> None:
    backend = opened(bundle, gpu, BATCH)
    assert backend.batch_size == BATCH
    draws = Drawer(bundle.manifest, seed=count).draw(count)
    found = backend.run_batch(draws, images(count), want_purified=want_purified)
    reference = OnnxRuntimeBackend(bundle)
    for row, (draw, ours) in enumerate(zip(draws, found, strict=True)):
        alone = reference.run(draw, images(count)[row : row + 1], want_purified=True)
        assert np.allclose(ours.logits, alone.logits, atol=1e-6)
        assert ours.logits.shape == alone.logits.shape
        assert (ours.purified is not None) == want_purified
        if want_purified:
            assert np.allclose(np.asarray(ours.purified), np.asarray(alone.purified), atol=1e-6)
        assert ours.purify_s > 0
        assert ours.classify_s > 0
    backend.close()
    gpu.require_nothing_held()


def test_images_that_drew_the_same_purifier_share_its_run(bundle: Bundle, gpu: FakeGpu) -> None:
    """16 images over 3 purifiers and 2 classifiers: a wait, not 16, and far fewer launches than 32."""
    backend = opened(bundle, gpu, 16)
    draws = Drawer(bundle.manifest, seed=1).draw(16)
    gpu.calls.clear()
    backend.run_batch(draws, images(16), want_purified=False)
    pairs = {(draw.purifier, draw.classifier) for draw in draws}
    launches = sum("aunch" in call for call in gpu.calls)
    assert launches == len({draw.purifier for draw in draws}) + len(pairs) <= 9
    assert sum("ynchronize" in call for call in gpu.calls) == 1
    backend.close()
    gpu.require_nothing_held()


def test_indices_are_batched_too(bundle_copy: Path, gpu: FakeGpu) -> None:
    """As a masked autoencoder's purifiers take them; a graph that mixes rows is refused when it is built."""
    bundle = with_index_purifiers(bundle_copy, takes=(5,))
    with pytest.raises(BuildError, match=r"a batch of 4: its graph (mixes the images|can't take several)"):
        write_engines(bundle, batch=BATCH)


def test_rows_of_a_purifier() -> None:
    assert list(shared_runs([2, 0, 2, 2, 0, 1], 2)) == [[0, 2], [3], [1, 4], [5]]
    assert list(shared_runs([], 2)) == []


def test_single_engines_run_as_ever(bundle: Bundle, gpu: FakeGpu) -> None:
    """The newest plan is one for four images; a single image's is not mistaken for it."""
    backend = opened(bundle, gpu, BATCH)
    draw = Drawer(bundle.manifest, seed=3).draw(1)[0]
    alone = OnnxRuntimeBackend(bundle).run(draw, images(1), want_purified=True)
    assert np.array_equal(backend.run(draw, images(1), want_purified=False).logits, alone.logits)
    backend.close()


def test_the_largest_batch_of_which_all_engines_are_there(bundle: Bundle, gpu: FakeGpu) -> None:
    for batch in (1, 2, 8):
        write_engines(bundle, batch=batch)
    last = bundle.manifest.engines[-1].id
    (plan,) = [built.plan for built in built_engines(cache_folder(bundle), last, "fp32") if built.batch == 8]
    plan.with_suffix(".json").unlink()
    backend = TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=driver_of(gpu))
    assert backend.batch_size == 2
    backend.close()


def test_without_such_engines_there_are_none(bundle: Bundle, gpu: FakeGpu) -> None:
    backend = opened(bundle, gpu)
    assert backend.batch_size == 1
    found = backend.run_batch(Drawer(bundle.manifest, seed=3).draw(5), images(5), want_purified=True)
    assert len(found) == 5
    backend.close()
    gpu.require_nothing_held()


def test_only_batched_engines_are_none_for_a_single_image(bundle: Bundle) -> None:
    write_engines(bundle, batch=BATCH)
    host = Host("tensorrt", "10.3.0", "Fake Orin", "8.7")
    with pytest.raises(BackendError, match="none was built for TensorRT yet"):
        find_engine(bundle, bundle.manifest.purifiers[0], "fp32", host)
    assert find_engine(bundle, bundle.manifest.purifiers[0], "fp32", host, batch=BATCH).batch == BATCH


@pytest.mark.parametrize("votes", [1, 3])
def test_a_purifier_uses_them_for_regions(votes: int, bundle: Bundle, gpu: FakeGpu) -> None:
    colors = [(30, 40, 220), (30, 220, 40), (220, 30, 40), (9, 9, 9)]
    frames = [np.full((40, 60, 3), color, np.uint8) for color in colors * 4]
    backend = opened(bundle, gpu, 16)
    with Purifier(bundle, backend, votes=votes, suspicion=True) as purifier:
        gpu.calls.clear()
        results = purifier.batch(frames)
        n_waits = sum("ynchronize" in call for call in gpu.calls)
        assert [result.label for result in results] == ["red", "green", "blue", "dark"] * 4
        assert [purifier(frame).label for frame in frames] == [result.label for result in results]
    assert n_waits == 1 + len(frames), "one for all draws, and one for each suspicion"
    assert all(len(result.draws) == votes and result.purified is not None for result in results)
    assert all(result.suspicion is not None and result.timings.total_ms > 0 for result in results)
    masks = {result.draws[0].random_inputs["atom_mask"].tobytes() for result in results}
    assert len(masks) > len(results) // 2, "a draw of its own for every region"
    gpu.require_nothing_held()


def test_a_batch_that_fails_gives_no_label(bundle: Bundle, gpu: FakeGpu) -> None:
    frames = [np.full((40, 60, 3), (30, 40, 220), np.uint8)] * 5
    for on_error in ("raise", "skip"):
        backend = opened(bundle, gpu, BATCH)
        with Purifier(bundle, backend, on_error=on_error) as purifier:  # type: ignore[arg-type]
            gpu.fail_at = len(gpu.calls) + 6
            if on_error == "raise":
                with pytest.raises(BackendError, match="failed while running"):
                    purifier.batch(frames)
            else:
                results = purifier.batch(frames)
                assert [result.label for result in results] == [None] * 5
                assert all("failed while running" in str(result.error) for result in results)
            gpu.fail_at = None
            assert [result.label for result in purifier.batch(frames)] == ["red"] * 5
    gpu.require_nothing_held()
