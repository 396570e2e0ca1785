"""Suspicion: the formula by hand, and in a Result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk import Purifier
from sdk.bundle import Bundle
from sdk.suspicion import suspicion
from tests.sdk.test_purifier import RED_IMAGE, Broken


@pytest.mark.parametrize(
    ("raw", "votes", "expected"),
    [
        ([1, 0], [[1, 0]], 0),
        ([1, 0], [[0, 1]], 1),
        ([0.7, 0.3], [[0.4, 0.6]], 0.3),
        ([1, 0], [[1, 0], [0, 1]], 0.5),
        ([0.5, 0.5], [[1, 0], [0, 1]], 0.5),  # the votes disagree, though their mean is the raw decision
    ],
)
def test_by_hand(raw: list[float], votes: list[list[float]], expected: float) -> None:
    assert suspicion(np.array(raw), np.array(votes)) == pytest.approx(expected)


def test_a_batch_is_scored_image_by_image() -> None:
    rng = np.random.default_rng(0)
    raw, votes = rng.dirichlet(np.ones(4), 5), rng.dirichlet(np.ones(4), (3, 5))
    each = [suspicion(raw[i], votes[:, i]) for i in range(5)]
    np.testing.assert_allclose(suspicion(raw, votes), each)


@given(
    weights=st.lists(
        st.lists(st.floats(0, 1e6), min_size=3, max_size=3).filter(lambda row: sum(row) > 0),
        min_size=2,
        max_size=6,
    )
)
def test_it_is_never_outside_its_range(weights: list[list[float]]) -> None:
    probabilities = np.array(weights) / np.sum(weights, axis=1, keepdims=True)
    assert 0 <= suspicion(probabilities[0], probabilities[1:]) <= 1


def test_a_result_has_it_only_where_it_was_asked_for(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    with Purifier.load(tiny_bundle) as purifier:
        assert purifier(red_frame).suspicion is None


@pytest.mark.parametrize("votes", [1, 4])
def test_a_results_is_that_of_its_draws(tiny_bundle: Path, red_frame: np.ndarray, votes: int) -> None:
    with Purifier.load(tiny_bundle, votes=votes, suspicion=True) as purifier:
        result = purifier(red_frame)
        each = []
        for draw in result.draws:
            purified = purifier.backend.purify(draw.purifier, RED_IMAGE, draw.random_inputs)
            each.append(probabilities(purifier.backend.classify(draw.classifier, purified)))
        raw = probabilities(purifier.backend.classify(result.draw.classifier, RED_IMAGE))
    assert result.suspicion == pytest.approx(float(suspicion(raw, np.array(each))), abs=1e-4)
    assert 0 < result.suspicion < 0.1  # a purifier of the tiny bundle shifts colours a little


def test_a_skipped_frame_has_none(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    broken = Broken(tiny_bundle, "purify", None)
    with Purifier(Bundle.open(tiny_bundle), broken, suspicion=True, on_error="skip") as purifier:
        result = purifier(red_frame)
    assert result.suspicion is None
    assert result.error


class BrokenOnRaw(Broken):
    """Its classifier fails on the raw image alone: after the label is known, when suspicion asks."""

    def classify(self, classifier: int, image: np.ndarray) -> np.ndarray:
        return (
            self._fail() if np.allclose(image, RED_IMAGE, atol=1e-6) else super().classify(classifier, image)
        )


def test_a_frame_whose_suspicion_fails_gets_no_label(tiny_bundle: Path, red_frame: np.ndarray) -> None:
    broken = BrokenOnRaw(tiny_bundle, "raw", np.full((1, 4), np.nan, np.float32))
    with Purifier(Bundle.open(tiny_bundle), broken, suspicion=True, on_error="skip") as purifier:
        result = purifier(red_frame)
    assert result.label is result.suspicion is None
    assert "NaN or infinite" in str(result.error)


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.exp(logits[0] - logits[0].max())
    return weights / weights.sum()
