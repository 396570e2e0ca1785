"""Intervals and counts against hand-computed cases."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.robustness.evaluation.statistics import chance, count, roc_area, roc_at, wilson


@pytest.mark.parametrize(
    ("share", "images", "low", "high"),
    [(0.0, 10, 0.0, 0.2775), (0.5, 10, 0.2366, 0.7634), (1.0, 10, 0.7225, 1.0), (0.3, 1000, 0.2724, 0.3291)],
)
def test_wilson_as_published(share: float, images: int, low: float, high: float) -> None:
    figure = wilson(share, images)
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-4)


@given(st.floats(0, 1), st.integers(1, 100_000))
def test_wilson_holds_the_share(share: float, images: int) -> None:
    figure = wilson(share, images)
    assert 0 <= figure.low <= share
    assert share <= figure.high <= 1


@pytest.mark.parametrize(("share", "images"), [(1.1, 10), (-0.1, 10), (float("nan"), 10), (0.5, 0)])
def test_wilson_refuses(share: float, images: int) -> None:
    with pytest.raises(ValueError, match="expected a share in"):
        wilson(share, images)


def test_counts_by_hand() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    answers = torch.tensor([[0, 1, 2, 0], [0, 1, 0, 0], [0, 2, 0, 3]])  # 3 draws of 4 images
    counts = count(answers, labels)
    assert counts.expected.share == pytest.approx((1 + 2 / 3 + 1 / 3 + 1 / 3) / 4)
    assert counts.worst.share == 0.25
    assert counts.majority.share == 0.5
    assert counts.draws == 3
    assert chance(answers, labels).tolist() == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])


def test_roc_area_by_hand() -> None:
    clean = torch.tensor([0.1, 0.2, 0.3])
    assert roc_area(clean, torch.tensor([0.4, 0.5])) == 1
    assert roc_area(clean, clean) == 0.5
    assert roc_area(clean, torch.tensor([0.2])) == pytest.approx(0.5)
    assert roc_area(clean, torch.tensor([0.0])) == 0


def test_roc_by_hand() -> None:
    rates = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    clean = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert roc_at(rates, clean, torch.tensor([0.5, 0.25])).tolist() == [0.5, 0.5, 1, 1, 1]
    assert roc_at(rates, clean, torch.tensor([0.0])).tolist() == [0, 0, 0, 0, 1]
    ties = torch.full((4,), 0.3)
    assert roc_at(rates, ties, ties).tolist() == rates.tolist()  # as a coin would do


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(0, 9), min_size=1, max_size=30)
)
def test_the_area_is_that_under_the_roc(negatives: list[int], positives: list[int]) -> None:
    scores = [torch.tensor(values) / 10 for values in (negatives, positives)]
    rates = torch.arange(100_001, dtype=torch.float64) / 100_000
    assert float(roc_at(rates, *scores).mean()) == pytest.approx(roc_area(*scores), abs=1e-3)
