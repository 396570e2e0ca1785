"""The runtime: right labels, fresh draws, lasting results, and nothing unpurified when an engine fails."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sdk import Bundle, Purifier, Result
from sdk.backends.interface import Float, Inference
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.draw import Draw
from sdk.errors import BackendError, BundleError, UsageError
from sdk.inference import softmax

RED_IMAGE = np.full(
    (1, 3, 16, 16), np.float32([220, 40, 30]).reshape(1, 3, 1, 1) / 255, np.float32
)  # of red_frame


@pytest.fixture
def purifier(tiny_bundle: Path) -> Iterator[Purifier]:
    with Purifier.load(tiny_bundle) as opened:
        yield opened


@pytest.mark.parametrize(
    ("bgr", "label"),
    [((30, 40, 220), "red"), ((30, 220, 40), "green"), ((220, 30, 40), "blue"), ((9, 9, 9), "dark")],
)
def test_labels_what_the_frame_shows(purifier: Purifier, bgr: tuple[int, int, int], label: str) -> None:
    result = purifier(np.full((90, 120, 3), bgr, np.uint8))
    assert result.label == label
    assert result.probabilities is not None
    assert result.score == result.probabilities.max() > 1 / 4
    assert (result.probabilities.shape, result.probabilities.dtype) == ((4,), np.float32)
    assert result.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert result.error is None
    assert not result.seeded


def test_purified_is_the_engines_picture_as_opencv_shows_it(
    purifier: Purifier, red_frame: np.ndarray
) -> None:
    result = purifier(red_frame)
    again = purifier.backend.purify(result.draw.purifier, RED_IMAGE, result.draw.random_inputs)
    assert result.purified is not None
    assert (result.purified.shape, result.purified.dtype) == ((16, 16, 3), np.uint8)
    expected = np.round(again[0, ::-1].transpose(1, 2, 0) * 255)
    np.testing.assert_allclose(result.purified, expected, atol=1)
    assert not np.array_equal(
        result.purified[0, 0], red_frame[0, 0]
    )  # a purifier of the tiny bundle shifts colours


class Wishes(OnnxRuntimeBackend):
    """Notes for which draws the purified image was wanted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Bundle.open(folder))
        self.wanted: list[bool] = []

    def run(self, draw: Draw, image: Float, *, want_purified: bool) -> Inference:
        self.wanted.append(want_purified)
        return super().run(draw, image, want_purified=want_purified)


@pytest.mark.parametrize(("keep", "wanted"), [(True, [True, False, False]), (False, [False] * 3)])
def test_only_a_purified_image_that_is_kept_leaves_the_backend(
    tiny_bundle: Path, red_frame: np.ndarray, keep: bool, wanted: list[bool]
) -> None:
    backend = Wishes(tiny_bundle)
    with Purifier(Bundle.open(tiny_bundle), backend, votes=3, keep_purified=keep) as purifier:
        result = purifier(red_frame)
    assert backend.wanted == wanted
    assert result.label == "red"
    assert (result.purified is not None) == keep


def test_a_result_outlives_the_next_calls(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    with Purifier(Bundle.open(tiny_bundle), OneBuffer(tiny_bundle)) as purifier:
        result = purifier(red_frame)
        before = result.purified
        for _ in range(3):
            purifier(255 - red_frame)
        assert before is not None
        assert np.array_equal(before, result.purified)
    assert np.array_equal(before, result.purified)


def test_frames_are_drawn_afresh(purifier: Purifier, red_frame: np.ndarray) -> None:
    results = [
        purifier(red_frame) for _ in range(60)
    ]  # P(an engine never drawn) < 3 (2/3)^60 + 2 (1/2)^60 < 10^-10
    assert {result.draw.purifier_id for result in results} == {f"purifier-0{i}" for i in range(3)}
    assert {result.draw.classifier_id for result in results} == {"classifier-00", "classifier-01"}
    masks = {result.draw.random_inputs["atom_mask"].tobytes() for result in results}
    assert len(masks) > 20
    pictures = {result.purified.tobytes() for result in results if result.purified is not None}
    assert len(pictures) > 3  # the mask and the purifier really reach the picture


def test_votes_average_their_draws(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    with Purifier.load(tiny_bundle, votes=7) as purifier:
        result = purifier(red_frame)
        assert len(result.draws) == 7
        assert result.draw is result.draws[0]
        each = []
        for draw in result.draws:
            purified = purifier.backend.purify(draw.purifier, RED_IMAGE, draw.random_inputs)
            each.append(softmax(purifier.backend.classify(draw.classifier, purified)[0]))
        np.testing.assert_allclose(result.probabilities, np.mean(each, axis=0), atol=1e-5)


def test_a_seed_repeats_and_marks_every_result(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    def run(seed: int | None) -> list[Result]:
        with Purifier.load(tiny_bundle, seed=seed) as purifier:
            return [purifier(red_frame) for _ in range(20)]

    first, second, unseeded = run(5), run(5), run(None)
    for a, b in zip(first, second, strict=True):
        assert a.seeded
        assert b.seeded
        assert np.array_equal(a.probabilities, b.probabilities)
        assert np.array_equal(a.purified, b.purified)
    assert not any(result.seeded or result.draw.seeded for result in unseeded)


def test_timings_cover_the_stages(purifier: Purifier, red_frame: np.ndarray) -> None:
    timings = purifier(red_frame).timings
    stages = (timings.preprocess_ms, timings.draw_ms, timings.purify_ms, timings.classify_ms)
    assert all(stage > 0 for stage in stages)
    assert sum(stages) <= timings.total_ms


def test_the_frame_is_left_as_it_was(purifier: Purifier, red_frame: np.ndarray) -> None:
    before = red_frame.copy()
    purifier(red_frame)
    assert np.array_equal(red_frame, before)


def test_undefended_is_the_mean_of_all_classifiers_on_the_raw_frame(
    purifier: Purifier, red_frame: np.ndarray
) -> None:
    raw = purifier.undefended(red_frame)
    each = [softmax(purifier.backend.classify(j, RED_IMAGE)[0]) for j in range(2)]
    np.testing.assert_allclose(raw.probabilities, np.mean(each, axis=0), atol=1e-6)
    assert raw.label == "red"


def test_threads_share_a_purifier(purifier: Purifier) -> None:
    colours = {"red": (30, 40, 220), "green": (30, 220, 40), "blue": (220, 30, 40)}
    wrong: list[str] = []

    def work(label: str, bgr: tuple[int, int, int]) -> None:
        frame = np.full((32, 32, 3), bgr, np.uint8)
        wrong.extend(label for _ in range(100) if purifier(frame).label != label)

    threads = [threading.Thread(target=work, args=item) for item in colours.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_stream_follows_a_source(purifier: Purifier, tmp_path: Path, red_frame: np.ndarray) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), red_frame)
    results = list(purifier.stream(tmp_path))
    assert [result.label for result in results] == ["red"] * 3
    assert [result.frame_index for result in results] == [0, 1, 2]
    assert all(result.source for result in results)


class OneBuffer(OnnxRuntimeBackend):
    """Reuses one output buffer per stage, as the seam allows."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Bundle.open(folder))
        self.image, self.logits = np.empty((1, 3, 16, 16), np.float32), np.empty((1, 4), np.float32)

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        self.image[:] = super().purify(purifier, image, random_inputs)
        return self.image

    def classify(self, classifier: int, image: Float) -> Float:
        self.logits[:] = super().classify(classifier, image)
        return self.logits


class Broken(OnnxRuntimeBackend):
    """Goes wrong in one stage: raises, or returns ``answer``."""

    def __init__(self, folder: Path, stage: str, answer: np.ndarray | None) -> None:
        super().__init__(Bundle.open(folder))
        self.stage, self.answer = stage, answer

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        if self.stage == "purify":
            return self._fail()
        return super().purify(purifier, image, random_inputs)

    def classify(self, classifier: int, image: Float) -> Float:
        return self._fail() if self.stage == "classify" else super().classify(classifier, image)

    def _fail(self) -> Float:
        if self.answer is None:
            raise BackendError("engine under test: failed while running")
        return self.answer


def spoilt(shape: tuple[int, ...], value: float) -> np.ndarray:
    array = np.zeros(shape, np.float32)
    array.flat[-1] = value
    return array


FAILURES: list[tuple[str, np.ndarray | None, str]] = [
    ("purify", None, "failed while running"),
    ("purify", spoilt((1, 3, 16, 16), np.nan), r"engine purifier-0\d: NaN or infinite"),
    ("purify", spoilt((1, 3, 16, 16), np.inf), r"engine purifier-0\d: NaN or infinite"),
    ("purify", spoilt((1, 3, 8, 8), 0), r"engine purifier-0\d: expected an output of shape \[1, 3, 16, 16\]"),
    ("classify", None, "failed while running"),
    ("classify", spoilt((1, 4), -np.inf), r"engine classifier-0\d: NaN or infinite"),
    (
        "classify",
        spoilt((1, 5), 0),
        r"engine classifier-0\d: expected an output of shape \[1, 4\], got \[1, 5\]",
    ),
]


@pytest.mark.parametrize(("stage", "answer", "message"), FAILURES)
def test_fails_closed(
    tiny_bundle: Path, red_frame: np.ndarray, stage: str, answer: np.ndarray | None, message: str
) -> None:
    bundle = Bundle.open(tiny_bundle)
    with (
        Purifier(bundle, Broken(tiny_bundle, stage, answer)) as purifier,
        pytest.raises(BackendError, match=message),
    ):
        purifier(red_frame)
    with Purifier(bundle, Broken(tiny_bundle, stage, answer), on_error="skip", votes=2) as purifier:
        result = purifier(red_frame, frame_index=4, source="clip")
    assert result.label is result.score is result.probabilities is result.purified is None
    assert re.search(message, str(result.error))
    assert len(result.draws) == 2
    assert (result.frame_index, result.source) == (4, "clip")


def test_a_wrong_frame_is_the_callers_mistake_even_when_skipping(tiny_bundle: Path) -> None:
    with (
        Purifier.load(tiny_bundle, on_error="skip") as purifier,
        pytest.raises(UsageError, match="convert grey frames"),
    ):
        purifier(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"votes": 0}, "votes: expected an integer >= 1, got 0"),
        ({"votes": 1.5}, "votes: expected an integer >= 1, got 1.5"),
        ({"votes": True}, "votes: expected an integer >= 1, got True"),
        ({"on_error": "ignore"}, "on_error: expected raise or skip, got 'ignore'"),
        ({"seed": "x"}, "seed: expected an integer or None, got 'x'"),
        (
            {"backend": "tensorflow"},
            "backend: expected one of auto, onnxruntime, openvino, tensorrt, tensorrt-rtx",
        ),
        ({"precision": "fp64"}, "precision: expected one of auto, fp32, fp16, int8"),
    ],
)
def test_impossible_arguments(tiny_bundle: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Purifier.load(tiny_bundle, **arguments)


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        Purifier.load(tmp_path / "absent")


def test_a_closed_purifier_says_so(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    purifier = Purifier.load(tiny_bundle)
    purifier.close()
    purifier.close()
    for call in (purifier, purifier.undefended):
        with pytest.raises(UsageError, match="this Purifier is closed; load it again"):
            call(red_frame)


def test_softmax_bears_any_finite_logits() -> None:
    assert softmax(np.float32([3e38, 0, -1e37])).tolist() == [1, 0, 0]
    np.testing.assert_allclose(softmax(np.float32([0, 0, 0, 0])), 0.25)
    np.testing.assert_allclose(softmax(np.log(np.float32([1, 2, 5]))), [0.125, 0.25, 0.625], rtol=1e-6)


def test_import_is_light_and_the_runtime_needs_no_torch(tiny_bundle: Path) -> None:
    code = f"""
import sys, sdk
heavy = {{"numpy", "cv2", "onnxruntime", "msgspec", "torch", "onnx"}} & set(sys.modules)
assert not heavy, heavy
sdk.Purifier.load({str(tiny_bundle)!r}).close()
assert not {{"torch", "onnx", "export", "trainer"}} & set(sys.modules)
assert sdk.__version__.count(".") == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_every_exported_name_exists() -> None:
    import sdk

    assert all(getattr(sdk, name) for name in sdk.__all__)
    assert dir(sdk) == sorted(sdk.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Purifyer'"):
        sdk.Purifyer  # noqa: B018
