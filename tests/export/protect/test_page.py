"""The lines of the page *Your own classifier* give files that ``edge-protect`` takes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from export.external_classifier.classifier import ForeignClassifier
from export.external_classifier.conventions import Conventions

PAGE = Path(__file__).resolve().parents[3] / "docs" / "own-classifier.md"


def lines(test: str) -> str:
    """The block of Python that names ``test``."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- run by: {test} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_lines_for_a_torch_user_give_a_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    exec(lines("test_the_lines_for_a_torch_user_give_a_classifier"), {"model": model})
    foreign = ForeignClassifier(tmp_path / "net.onnx", tuple("abcde"), Conventions(), scores="logits")
    images = np.random.default_rng(0).random((3, 3, 32, 32), np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    assert np.abs(foreign.classify(images) - expected).max() < 1e-5


def test_the_lines_for_a_scikit_learn_user_give_a_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    pixels = (digits.images / 16).astype(np.float32)[:600, None].repeat(3, axis=1)
    labels = digits.target[:600]
    model = LogisticRegression(max_iter=200).fit(pixels.reshape(600, -1), labels)
    exec(lines("test_the_lines_for_a_scikit_learn_user_give_a_classifier"), {"model": model})
    foreign = ForeignClassifier(tmp_path / "net.onnx", tuple("0123456789"), Conventions())
    assert (foreign.height, foreign.width) == (8, 8)
    answers = foreign.classify(pixels[:50]).argmax(1)
    assert np.array_equal(answers, model.predict(pixels[:50].reshape(50, -1)))
