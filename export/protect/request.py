"""What the user asked for, and what of it makes two runs the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from export.external_classifier.classifier import ForeignClassifier
from sdk.bundle import sha256_of

Family = Literal["ren", "maep"]
Adapt = Literal["none", "classifier"]


@dataclass(frozen=True)
class Request:
    """The options of ``edge-protect``, read.

    Attributes:
        classifier: to be protected, as it is.
        pictures: folder with one folder for each class, with or without ``train`` and ``test`` above.
        out: the bundle's folder.
        work: folder for what is finished.
        name: the bundle's name.
        family: of the purifier; None for the one that suits ``adapt`` and the size of the images.
        adapt: what of the classifier is trained beside the purifier.
        hours: that all of it may take.
        eps: of the attacks, linf, in the images' units, [0, 1].
        split: share of the pictures that are trained on, where no folders split them.
        seed: of training and attacks.
        images: test pictures that are attacked.
    """

    classifier: ForeignClassifier
    pictures: Path
    out: Path
    work: Path
    name: str
    family: Family | None = None
    adapt: Adapt = "none"
    hours: float = 2.0
    eps: float = 8 / 255
    split: float = 0.8
    seed: int = 0
    images: int = 128

    @property
    def options(self) -> dict[str, Any]:
        """What decides the outcome, by the options' names: finished work is of use for equal ones alone."""
        says = self.classifier.says
        read = ("mean", "std", "layout", "color", "range", "scores", "output")
        return {
            "CLASSIFIER": sha256_of(self.classifier.path),
            "--pictures": str(self.pictures.resolve()),
            "--labels": list(self.classifier.labels),
            **{f"--{key}": _plain(says.get(key)) for key in read},
            "--image-size": [self.classifier.height, self.classifier.width],
            "--family": self.family,
            "--adapt": self.adapt,
            "--hours": self.hours,
            "--eps": round(self.eps, 8),
            "--split": self.split,
            "--seed": self.seed,
            "--images": self.images,
        }


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value
