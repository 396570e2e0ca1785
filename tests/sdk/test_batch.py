"""Several regions at a time, scores that are not enough, draws that are hidden."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sdk import Bundle, Purifier, Roi
from sdk.arrays import FloatImage
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle.manifest import Calibration
from sdk.errors import BackendError, UsageError
from sdk.inference import softmax
from sdk.purifier import _parts
from sdk.result import UNSURE
from sdk.sinks.record import record
from sdk.sources import Frame

COLORS = {"red": (30, 40, 220), "green": (30, 220, 40), "blue": (220, 30, 40), "dark": (9, 9, 9)}  # BGR
DEADLINE_S = 30.0


@pytest.fixture
def checkered() -> tuple[np.ndarray, list[Roi], list[str]]:
    """A frame of 4 x 4 tiles of the four colours, its regions, and the label of each."""
    names = [list(COLORS)[(row + column) % 4] for row in range(4) for column in range(4)]
    rois = [Roi(60 * column, 40 * row, 60, 40) for row in range(4) for column in range(4)]
    frame = np.zeros((160, 240, 3), np.uint8)
    for name, roi in zip(names, rois, strict=True):
        roi.crop(frame)[:] = COLORS[name]
    return frame, rois, names


@pytest.mark.parametrize("n_cpus", [1, 2, 3])
def test_each_region_gets_the_label_that_it_gets_alone(
    n_cpus: int, tiny_bundle: Path, checkered: tuple[np.ndarray, list[Roi], list[str]], cpus: Cpus
) -> None:
    frame, rois, names = checkered
    cpus(n_cpus)
    with Purifier.load(tiny_bundle, votes=2) as purifier:
        results = purifier.batch([roi.crop(frame) for roi in rois], frame_index=3, source="f", rois=rois)
        assert [result.label for result in results] == names
        assert [result.label for result in (purifier(roi.crop(frame)) for roi in rois)] == names
    assert [result.region for result in results] == rois
    assert {(result.frame_index, result.source) for result in results} == {(3, "f")}
    masks = {result.draws[0].random_inputs["atom_mask"].tobytes() for result in results}
    assert len(masks) > len(results) // 2, "a draw of its own for every region"
    assert all(len(result.draws) == 2 for result in results)


Cpus = Callable[[int], None]


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch) -> Cpus:
    return lambda n: monkeypatch.setattr("sdk.purifier.available_cpus", lambda: n)


class Meeting(OnnxRuntimeBackend):
    """Engines that wait for each other, and so only ever finish if two of them run at once."""

    barrier = threading.Barrier(2)

    def purify(self, purifier: int, image: FloatImage, random_inputs: Mapping[str, np.ndarray]) -> FloatImage:
        self.barrier.wait(DEADLINE_S)
        return super().purify(purifier, image, random_inputs)


def test_regions_run_at_the_same_time(
    tiny_bundle: Path, checkered: tuple[np.ndarray, list[Roi], list[str]], cpus: Cpus
) -> None:
    frame, rois, names = checkered
    cpus(2)
    bundle = Bundle.open(tiny_bundle)
    with Purifier(bundle, Meeting(bundle)) as purifier:
        results = purifier.batch([roi.crop(frame) for roi in rois])
    assert [result.label for result in results] == names


class Broken(OnnxRuntimeBackend):
    def purify(self, purifier: int, image: FloatImage, random_inputs: Mapping[str, np.ndarray]) -> FloatImage:
        if image.mean() < 0.1:  # the dark ones
            raise BackendError("engine purifier-00: failed while running")
        return super().purify(purifier, image, random_inputs)


class BrokenClassifier(OnnxRuntimeBackend):
    def classify(self, classifier: int, image: FloatImage) -> FloatImage:
        if image.mean() < 0.1:
            raise BackendError("engine classifier-00: failed while running")
        return super().classify(classifier, image)


@pytest.mark.parametrize("broken", [Broken, BrokenClassifier])
@pytest.mark.parametrize("votes", [1, 2])
def test_an_engine_that_fails_on_one_region(
    broken: type[OnnxRuntimeBackend],
    votes: int,
    tiny_bundle: Path,
    checkered: tuple[np.ndarray, list[Roi], list[str]],
    cpus: Cpus,
) -> None:
    frame, rois, names = checkered
    crops = [roi.crop(frame) for roi in rois]
    cpus(2)
    bundle = Bundle.open(tiny_bundle)
    with (
        Purifier(bundle, broken(bundle), votes=votes) as purifier,
        pytest.raises(BackendError, match="failed"),
    ):
        purifier.batch(crops)
    with Purifier(bundle, broken(bundle), votes=votes, on_error="skip", hide_draw=True) as purifier:
        results = purifier.batch(crops)
    assert [result.label for result in results] == [None if name == "dark" else name for name in names]
    assert {result.error for result in results} == {None, "an engine failed"}, "which one is hidden"
    assert not any(result.accepted for result in results if result.label is None)


def test_impossible_batches(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    with Purifier.load(tiny_bundle) as purifier:
        assert purifier.batch([]) == []
        with pytest.raises(UsageError, match="convert grey frames"):
            purifier.batch([red_frame, red_frame[:, :, 0]])
        with pytest.raises(UsageError, match="rois: expected one per frame, 1, got 2"):
            purifier.batch([red_frame], rois=[Roi(0, 0, 1, 1)] * 2)
    with pytest.raises(UsageError, match="closed"):
        purifier.batch([red_frame])


# --- a score that is enough, or not


def test_a_score_below_the_least_is_unsure(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    with Purifier.load(tiny_bundle, seed=1) as purifier:
        sure = purifier(red_frame)
    assert (sure.label, sure.accepted) == ("red", True)
    assert sure.score is not None
    assert sure.score < 1
    with Purifier.load(tiny_bundle, seed=1, min_score=sure.score) as purifier:
        assert purifier(red_frame).label == "red", "just enough is enough"
    with Purifier.load(tiny_bundle, seed=1, min_score=(1 + sure.score) / 2) as purifier:
        unsure = purifier(red_frame)
    assert (unsure.label, unsure.accepted, unsure.score) == (UNSURE, False, sure.score)
    assert unsure.probabilities is not None
    assert np.array_equal(unsure.probabilities, np.asarray(sure.probabilities)), "nothing is withheld"


@pytest.mark.parametrize("min_score", [-0.1, 1.1, "0.5", True, float("nan")])
def test_impossible_least_score(min_score: float, tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"min_score: expected a probability in \[0, 1\]"):
        Purifier.load(tiny_bundle, min_score=min_score)


def test_temperature_divides_the_logits(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    bundle = Bundle.open(tiny_bundle)
    with Purifier.load(bundle, seed=1) as purifier:
        plain, undefended = purifier(red_frame), purifier.undefended(red_frame)
    bundle.manifest = msgspec.structs.replace(bundle.manifest, calibration=Calibration(2.5))
    with Purifier.load(bundle, seed=1) as purifier:
        tempered, tempered_undefended = purifier(red_frame), purifier.undefended(red_frame)
    assert plain.probabilities is not None
    assert tempered.probabilities is not None
    expected = softmax(np.log(plain.probabilities) / np.float32(2.5))
    np.testing.assert_allclose(tempered.probabilities, expected, rtol=1e-4)
    assert tempered_undefended.score < undefended.score


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="expected a temperature > 0"):
        Calibration(temperature)


# --- hidden draws


def test_hidden_draws_are_in_no_result_and_no_record(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    with Purifier.load(tiny_bundle, hide_draw=True, votes=3) as purifier:
        result = purifier(red_frame)
    assert (result.label, result.draws) == ("red", ())
    line = msgspec.json.encode(record(Frame(red_frame, 0, "f"), result, purifier.bundle.labels))
    assert b"purifier-0" not in line
    assert b"classifier-0" not in line
    with pytest.raises(UsageError, match="the draws of this result are hidden; load the Purifier without"):
        _ = result.draw


# --- in phases


def test_all_are_purified_before_any_is_classified_and_like_engines_follow_each_other(
    tiny_bundle: Path, checkered: tuple[np.ndarray, list[Roi], list[str]], cpus: Cpus
) -> None:
    calls: list[tuple[str, int]] = []

    class Noted(OnnxRuntimeBackend):
        def purify(
            self, purifier: int, image: FloatImage, random_inputs: Mapping[str, np.ndarray]
        ) -> FloatImage:
            calls.append(("purifier", purifier))
            return super().purify(purifier, image, random_inputs)

        def classify(self, classifier: int, image: FloatImage) -> FloatImage:
            calls.append(("classifier", classifier))
            return super().classify(classifier, image)

    frame, rois, names = checkered
    cpus(1)
    bundle = Bundle.open(tiny_bundle)
    with Purifier(bundle, Noted(bundle)) as purifier:
        results = purifier.batch([roi.crop(frame) for roi in rois])
    assert [result.label for result in results] == names
    assert calls[:16] == sorted(calls[:16])
    assert calls[16:] == sorted(calls[16:])
    assert {kind for kind, _ in calls[:16]} == {"purifier"}
    assert {kind for kind, _ in calls[16:]} == {"classifier"}
    assert all(result.timings.purify_ms > 0 and result.timings.classify_ms > 0 for result in results)


@pytest.mark.parametrize(
    ("count", "n_threads", "sizes"), [(16, 1, [16]), (16, 2, [4] * 4), (5, 4, [1] * 5), (9, 2, [3] * 3)]
)
def test_parts_for_threads(count: int, n_threads: int, sizes: list[int]) -> None:
    parts = _parts(range(count), n_threads)
    assert [len(part) for part in parts] == sizes
    assert [i for part in parts for i in part] == list(range(count))
