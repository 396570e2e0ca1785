"""The loss terms against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.objectives.losses import RIDGE, code_change, diversity


def test_diversity_of_two_members_by_hand() -> None:
    # three classes, the first is true; without it the members predict (3, 1) / 4 and (1, 3) / 4
    probabilities = torch.tensor([[[0.2, 0.6, 0.2]], [[0.2, 0.2, 0.6]]])
    cosine = (3 * 1 + 1 * 3) / 10
    determinant = (1 + RIDGE) ** 2 - cosine**2
    mean = [0.2, 0.4, 0.4]
    entropy = -sum(p * math.log(p) for p in mean)
    found = diversity(probabilities.log(), torch.tensor([0]), alpha=2.0, beta=0.5)
    assert float(found) == pytest.approx(-(2.0 * entropy + 0.5 * math.log(determinant)), rel=1e-5)


def test_members_that_agree_lose_more_than_members_that_differ() -> None:
    one = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    other = torch.tensor([[2.0, -1.0, 0.0, 1.0]])
    label = torch.tensor([0])
    agreeing = diversity(torch.stack([one, one]), label)
    differing = diversity(torch.stack([one, other]), label)
    assert torch.isfinite(agreeing)
    assert agreeing > differing + 1


def test_diversity_is_finite_in_half_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.randn(4, 8, 10, dtype=torch.bfloat16).requires_grad_()
        loss = diversity(logits, torch.zeros(8, dtype=torch.int64))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_code_change_is_relative_and_holds_the_reference_still() -> None:
    reference = torch.tensor([1.0, -3.0], requires_grad=True)
    code = torch.tensor([2.0, -2.0], requires_grad=True)
    change = code_change(code, reference)
    change.backward()
    assert change.item() == pytest.approx(0.5)
    assert reference.grad is None
