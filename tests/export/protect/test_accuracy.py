"""A classifier that doesn't know the pictures stops the work, with the likely reason."""

from __future__ import annotations

import pytest
import torch

from export.external_classifier.classifier import ForeignClassifier
from export.external_classifier.conventions import Conventions
from export.protect.accuracy import check, options_of, usual
from sdk.errors import GateError
from tests.export.protect.conftest import LABELS, MEAN, STD, Brought, textures
from trainer.data import Images

RIGHT = Conventions(mean=(MEAN,) * 3, std=(STD,) * 3)


def images(*, order: tuple[int, ...] = (0, 1, 2), a_class: int = 30) -> Images:
    """Other pictures than it was trained on, class ``i`` called by the label ``order[i]``, mixed."""
    pixels, targets = textures(a_class, seed=1)
    mixed = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    return Images(torch.from_numpy(pixels)[mixed], torch.tensor(order)[targets][mixed], LABELS)


def classifier(brought: Brought, conventions: Conventions = RIGHT) -> ForeignClassifier:
    return ForeignClassifier(brought.classifier, LABELS, conventions)


def test_a_classifier_that_knows_the_pictures_passes(brought: Brought) -> None:
    raw = check(classifier(brought), images())
    assert raw.share > 0.9
    assert (raw.pictures, raw.better) == (90, None)


def test_another_order_of_classes_is_told(brought: Brought) -> None:
    with pytest.raises(GateError, match=r"right on \d\.\d% of 90 clean .*; by chance .* 33\.3%") as caught:
        check(classifier(brought), images(order=(1, 2, 0)))
    assert "--labels is in another order than the classifier's scores: it takes" in str(caught.value.hint)
    assert caught.value.exit_code == 3


def test_conventions_that_do_better_are_told(brought: Brought) -> None:
    """Mean and deviation of bytes, and the range forgotten."""
    wrong = Conventions(mean=(255 * MEAN,) * 3, std=(255 * STD,) * 3)
    with pytest.raises(GateError) as caught:
        check(classifier(brought, wrong), images())
    said = "with --mean 127.5,127.5,127.5 --std 63.75,63.75,63.75 --range 255 it would be right on "
    assert str(caught.value.hint).startswith(said)


def test_a_convention_that_costs_some_accuracy_is_told_and_does_not_stop(brought: Brought) -> None:
    swapped = Conventions(mean=RIGHT.mean, std=RIGHT.std, color="bgr")
    raw = check(classifier(brought, swapped), images())
    right = check(classifier(brought), images())
    assert (raw.better is not None) == (raw.share < right.share - 0.1)


def test_noise_has_no_obvious_reason(brought: Brought) -> None:
    mixed = images()
    order = torch.randperm(len(mixed), generator=torch.Generator().manual_seed(5))
    noise = Images(mixed.pixels, mixed.targets[order], LABELS)
    with pytest.raises(GateError, match=r"check the order of --labels, .*nothing obvious does better"):
        check(classifier(brought), noise)


def test_the_usual_conventions_are_others_than_the_given_ones() -> None:
    given = Conventions(layout="nhwc", color="bgr", range=255, mean=(103.939, 116.779, 123.68))
    others = list(usual(given))
    assert given not in others
    assert len(others) == len(set(others)) >= 11
    assert {one.layout for one in others} == {"nhwc"}
    assert options_of(given) == "--mean 103.939,116.779,123.68 --layout nhwc --color bgr --range 255"
    assert options_of(Conventions()) == "neither --mean, --std, --color nor --range"
