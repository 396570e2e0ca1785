"""Engines that are swapped on disk while a bundle is opened and loaded: never another engine's output."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sdk.backends import open_backend
from sdk.bundle import Bundle
from sdk.errors import BundleError
from sdk.purifier import Purifier
from tests.export.spoil import rehash

SWAPS = 200
BACKENDS = ["onnxruntime", "openvino"]


class Swapper:
    """Replaces two engines by each other's files, atomically and at random moments, until it is stopped."""

    def __init__(self, folder: Path, first: str, second: str, *, seed: int) -> None:
        self.n_swaps = 0
        self._paths = [folder / "onnx" / name for name in (first, second)]
        self._contents = [path.read_bytes() for path in self._paths]
        self._random = random.Random(seed)
        self._stopped = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _work(self) -> None:
        while not self._stopped.is_set():
            for order in ((1, 0), (0, 1)):  # the other's, and back
                for path, which in zip(self._paths, order, strict=True):
                    part = path.with_name("part")
                    part.write_bytes(self._contents[which])
                    part.replace(path)
                self.n_swaps += 1
                time.sleep(self._random.random() * 0.01)


def outputs(bundle: Bundle, backend: str) -> list[np.ndarray]:
    """What each engine makes of one image."""
    opened = open_backend(bundle, backend, "fp32")
    try:
        size = bundle.manifest.image
        image = np.random.default_rng(0).random((1, 3, size.height, size.width), np.float32)
        mask = {"atom_mask": np.ones(bundle.manifest.purifiers[0].random_inputs[0].shape, np.float32)}
        purified = [opened.purify(n, image, mask).copy() for n in range(len(bundle.manifest.purifiers))]
        logits = [opened.classify(n, image).copy() for n in range(len(bundle.manifest.classifiers))]
    finally:
        opened.close()
    return purified + logits


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pair", [("purifier-00", "purifier-01"), ("classifier-00", "classifier-01")])
def test_a_swapped_engine_is_refused_or_was_read_before(
    bundle_copy: Path, backend: str, pair: tuple[str, str]
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="pip install 'edge-purify[openvino]'")
    expected = outputs(Bundle.open(bundle_copy), backend)
    assert not np.array_equal(expected[0], expected[1]), "the engines can be told apart"
    assert not np.array_equal(expected[-1], expected[-2])
    swapper = Swapper(bundle_copy, f"{pair[0]}.onnx", f"{pair[1]}.onnx", seed=1)
    refusals: list[str] = []
    with swapper.at_work():
        while swapper.n_swaps < SWAPS or not refusals:
            try:
                found = outputs(Bundle.open(bundle_copy), backend)
            except BundleError as error:
                refusals.append(str(error))
                continue
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)), "another's output"
    assert all("damaged or changed" in refusal for refusal in refusals)


def swap_after(opened: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``opened`` between the hash check of ``Bundle.open`` and the first read of an engine."""
    read = Bundle.read
    done: list[bool] = []

    def swapped_read(self: Bundle, file: object) -> bytes:
        if not done:
            done.append(True)
            opened()
        return read(self, file)  # type: ignore[arg-type]

    monkeypatch.setattr(Bundle, "read", swapped_read)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_moment_between_check_and_load_is_closed(
    bundle_copy: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="pip install 'edge-purify[openvino]'")
    first, second = (bundle_copy / "onnx" / f"purifier-0{n}.onnx" for n in (0, 1))
    swap_after(lambda: shutil.copyfile(second, first) and None, monkeypatch)
    with pytest.raises(BundleError, match=r"purifier-00\.onnx is damaged or changed"):
        Purifier.load(bundle_copy, backend=backend, precision="fp32")


def test_labels_are_those_that_were_hashed(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    (bundle_copy / "labels.txt").write_text("green\nred\nblue\ndark\n")
    with Purifier.load(bundle, backend="onnxruntime", precision="fp32") as purifier:
        assert purifier(np.full((20, 20, 3), (30, 40, 220), np.uint8)).label == "red"


def test_a_consistent_replacement_is_another_bundle(bundle_copy: Path) -> None:
    """Without a signature, whoever writes all files makes another bundle; its digest says so."""
    before = Bundle.open(bundle_copy)
    shutil.copyfile(bundle_copy / "onnx/purifier-01.onnx", bundle_copy / "onnx/purifier-00.onnx")
    rehash(bundle_copy)
    assert Bundle.open(bundle_copy).digest != before.digest
    with pytest.raises(BundleError, match="damaged or changed"):
        before.read(before.manifest.purifiers[0].onnx["fp32"])
