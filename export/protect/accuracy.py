"""The gate before the work: a classifier that doesn't know the pictures can't be protected on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from export.external_classifier.classifier import ForeignClassifier
from export.external_classifier.conventions import Conventions
from sdk.arrays import FloatImage
from sdk.errors import GateError
from trainer.data import Images

N_PICTURES = 400  # at most, that the accuracy is measured on
N_TRIED = 96  # of them, that other conventions are tried on
BETTER = 0.1  # by so much must another convention be better to be named
Z = 3.0  # standard deviations of luck

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SYMMETRIC = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CAFFE = (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)
PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

Answers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RawAccuracy:
    """How often the classifier is right on clean pictures, without any purifier.

    Attributes:
        right, pictures: of so many.
        better: conventions under which it would be right more often, in the words of the options; None where
            none was found.
    """

    right: int
    pictures: int
    better: str | None = None

    @property
    def share(self) -> float:
        return self.right / self.pictures


def check(classifier: ForeignClassifier, images: Images) -> RawAccuracy:
    """Measure the accuracy of ``classifier`` on ``images``, whose labels are in the order of its scores.

    Raises:
        GateError: it is right hardly more often than by chance; the hint has the likely reason.
    """
    floats = _floats(images)
    labels = images.targets.numpy()
    answers = _answers(classifier, floats)
    right, chance = int((answers == labels).sum()), 1 / len(classifier.labels)
    share = right / len(labels)
    by_luck = chance + Z * (chance * (1 - chance) / len(labels)) ** 0.5
    near_chance = share < max(by_luck, min(2 * chance, 0.5))
    better = _better(classifier, floats[:N_TRIED], labels[:N_TRIED]) if share < 1 - BETTER else None
    if not near_chance:
        return RawAccuracy(right, len(labels), better)
    what = (
        f"{classifier.path}: right on {share:.1%} of {len(labels)} clean pictures; "
        f"by chance it would be on {chance:.1%}"
    )
    order = _order(answers, labels, classifier.labels)
    hints = [hint for hint in (better, order) if hint]
    raise GateError(
        what,
        hint="; ".join(hints)
        or "check the order of --labels, which is that of its scores, and --mean, --std, --layout, --color, "
        "--range and --scores; nothing obvious does better",
    )


def _better(classifier: ForeignClassifier, floats: FloatImage, labels: Answers) -> str | None:
    """The best of the usual conventions, if it is clearly better than the given ones."""
    given = _share(classifier, floats, labels)
    found = [
        (_share(_under(classifier, other), floats, labels), other) for other in usual(classifier.conventions)
    ]
    best, conventions = max(found, key=lambda each: (each[0], -_n_changes(classifier.conventions, each[1])))
    spread = Z * (max(given * (1 - given), 0.01) / len(labels)) ** 0.5
    if best < given + max(BETTER, spread):
        return None
    return f"with {options_of(conventions)} it would be right on {best:.0%} of {len(labels)} pictures"


def usual(given: Conventions) -> Iterator[Conventions]:
    """The conventions that networks usually have, of the given layout, but for the given ones."""
    wide = tuple(tuple(255 * value for value in part) for part in IMAGENET)
    scales: list[tuple[int, tuple[float, ...], tuple[float, ...]]] = [
        *((1, *each) for each in (PLAIN, IMAGENET, SYMMETRIC, (given.mean, given.std))),
        *((255, *each) for each in (PLAIN, CAFFE, (wide[0], wide[1]), (given.mean, given.std))),
    ]
    tried = [given]
    for white, mean, std in scales:
        for color in ("rgb", "bgr"):
            one = msgspec.structs.replace(given, mean=tuple(mean), std=tuple(std), range=white, color=color)
            if one not in tried:
                tried.append(one)
                yield one


def _n_changes(one: Conventions, other: Conventions) -> int:
    return sum(getattr(one, key) != getattr(other, key) for key in one.__struct_fields__)


def options_of(conventions: Conventions) -> str:
    """As options of the command; those that say the default are left out."""
    default = Conventions()
    said = [
        f"--{key} {','.join(f'{number:g}' for number in value) if isinstance(value, tuple) else value}"
        for key in ("mean", "std", "layout", "color", "range")
        if (value := getattr(conventions, key)) != getattr(default, key)
    ]
    return " ".join(said) or "neither --mean, --std, --color nor --range"


def _order(answers: Answers, labels: Answers, names: tuple[str, ...]) -> str | None:
    """Whether the classes are in another order: learnt on every second picture, judged on the others."""
    n_classes = len(names)
    counts = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (labels[::2], answers[::2]), 1)
    taken_for, is_known = counts.argmax(1), np.asarray(counts.sum(axis=1) > 0, np.bool_)
    judged = is_known[labels[1::2]]
    hits = np.equal(taken_for[labels[1::2]], answers[1::2])
    distinct = len(set(taken_for[is_known].tolist()))
    if not judged.any() or distinct < 0.7 * is_known.sum() or distinct < 2:
        return None
    share = float(np.mean(hits, where=judged))
    if share < max(0.5, 3 / n_classes):
        return None
    moved = [place for place in np.flatnonzero(is_known) if taken_for[place] != place][:2]
    examples = " and ".join(f"{names[place]!r} for {names[taken_for[place]]!r}" for place in moved)
    return (
        f"--labels is in another order than the classifier's scores: it takes {examples}, and with the "
        f"classes moved so it would be right on {share:.0%}"
    )


def _under(classifier: ForeignClassifier, conventions: Conventions) -> ForeignClassifier:
    other = copy.copy(classifier)
    other.conventions = conventions
    return other


def _share(classifier: ForeignClassifier, floats: FloatImage, labels: Answers) -> float:
    return float((_answers(classifier, floats) == labels).mean())


def _answers(classifier: ForeignClassifier, floats: FloatImage) -> Answers:
    answers: Answers = classifier.classify(floats).argmax(1).astype(np.int64)
    return answers


def _floats(images: Images) -> FloatImage:
    floats: FloatImage = np.divide(images.pixels.numpy(), 255, dtype=np.float32)
    return floats
