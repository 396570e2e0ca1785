"""How far off an engine may be: strictly where it was exported with its twin, by decisions where not."""

from __future__ import annotations

import numpy as np
import pytest

from sdk.bundle.deviation import deviation


def logits(count: int = 50) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (count, 10)).astype(np.float32)


def test_an_external_classifiers_amplified_rounding_passes() -> None:
    """A classifier of 224 x 224 pixels was refused at 1.5e-4, the purifier's rounding amplified."""
    expected = logits()
    off = deviation("c", "logits", "golden outputs", expected + 1.5e-4, expected, relative=True)
    assert off.complaint is None
    strict = deviation("c", "logits", "golden outputs", expected + 1.5e-4, expected)
    assert strict.complaint is not None


def test_an_external_classifier_that_decides_otherwise_is_refused() -> None:
    expected = logits()
    first, second = np.argsort(expected, axis=1)[7, [-1, -2]]
    expected[7, second] = expected[7, first] - 0.03  # near, but no tie within the bound
    got = expected.copy()
    got[7, first] -= 0.018
    got[7, second] += 0.018
    found = deviation("c", "logits", "file given", got, expected, relative=True)
    assert found.top1 == pytest.approx(0.98)
    assert "most likely class" in str(found.complaint)


def test_a_tie_may_fall_either_way() -> None:
    expected = logits()
    first, second = np.argsort(expected, axis=1)[7, [-1, -2]]
    expected[7, second] = expected[7, first]
    got = expected.copy()
    got[7, first] -= 1e-4
    assert deviation("c", "logits", "file given", got, expected, relative=True).complaint is None


def test_a_broken_engine_or_a_number_that_is_none_is_refused() -> None:
    expected = logits()
    for got in (2 * expected, expected + np.float32(np.nan), expected[:, :9]):
        assert deviation("c", "logits", "file given", got, expected, relative=True).complaint
