"""What simple fronts do for the same classifiers: none, fewer grey levels, JPEG.

They are attacked adaptively too, on the margin, with the gradient of leaving the image as it is (BPDA).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.gradient import pgd
from trainer.robustness.attacks.losses import margin
from trainer.robustness.attacks.settled import patience_for
from trainer.robustness.defences.judges import Judge, Key
from trainer.robustness.defences.surrogates import Raw, mean_log, straight_through
from trainer.robustness.evaluation.ladder import Climber, climb_all
from trainer.robustness.evaluation.report import Baseline
from trainer.robustness.evaluation.statistics import Figure
from trainer.robustness.evaluation.steps import Attack, Step

Front = Callable[[Tensor], Tensor]

BITS = 4
JPEG_QUALITY = 75
BATCH = 250


def undefended(images: Tensor) -> Tensor:
    """The images as they are."""
    return images


def bit_depth(images: Tensor) -> Tensor:
    """Rounded to ``BITS`` bits a channel."""
    levels = 2**BITS - 1
    result: Tensor = (images * levels).round() / levels
    return result


def jpeg(images: Tensor) -> Tensor:
    """Through JPEG at ``JPEG_QUALITY``; (B, 3, H, W) RGB in [0, 1]."""
    return torch.stack([torch.from_numpy(_jpeg(image)) for image in images.numpy()])


FRONTS: dict[str, Front] = {
    "undefended": undefended,
    f"bit depth {BITS}": bit_depth,
    f"JPEG {JPEG_QUALITY}": jpeg,
}


@dataclass(frozen=True)
class FrontJudge:
    """The judge's classifiers behind a front; all of them stand in for the draws, every time."""

    judge: Judge
    front: Front = undefended

    @property
    def says(self) -> str:
        return self.judge.says

    def probabilities(self, images: Tensor, *, draws: int, key: Key, first: int = 0) -> Tensor:
        return self.raw_probabilities(images)

    def raw_probabilities(self, images: Tensor) -> Tensor:
        return self.judge.raw_probabilities(self.front(images))


@dataclass(frozen=True)
class Attacks:
    """How the fronts are attacked: PGD on the margin, each against this very front.

    Attributes:
        twin: whose classifiers are differentiated.
        ball: what the attacker may do.
        steps: of PGD.
    """

    twin: Defence
    ball: Ball
    steps: int


def measure(climber: Climber, fronts: Mapping[str, Front], attacks: Attacks | None) -> list[Baseline]:
    """Each front on the climber's images, clean and, given ``attacks``, attacked."""
    images = climber.images
    climbs: dict[tuple[str, str], tuple[Climber, Step]] = {}  # by front and rung
    for name, front in fronts.items():
        steps = {"clean": Step(f"{name} clean", None, len(images), BATCH)}
        if attacks is not None:
            attack = _adaptive(attacks, front, n_classes=len(images.labels))
            made = (attacks.ball, attacks.steps)
            steps["pgd"] = Step(f"{name} pgd", attack, len(images), BATCH, made=made)
        judged = replace(climber, judge=FrontJudge(climber.judge, front), draws=1)
        climbs |= {(name, rung): (judged, step) for rung, step in steps.items()}
    figures: dict[str, dict[str, Figure]] = {name: {} for name in fronts}
    for (name, rung), outcome in zip(climbs, climb_all(list(climbs.values())), strict=True):
        figures[name][rung] = outcome.rung(images.targets).counts.expected
    return [Baseline(name, by_rung) for name, by_rung in figures.items()]


def _adaptive(attacks: Attacks, front: Front, *, n_classes: int) -> Attack:
    def passed(images: Tensor) -> Tensor:
        return straight_through(front(images.detach()), images)

    model = Raw(attacks.twin, n_classes=n_classes, front=passed, mean=mean_log)
    patience = patience_for(attacks.twin.n_classifiers)
    return lambda given: pgd(
        model,
        given.images,
        given.labels,
        ball=attacks.ball,
        steps=attacks.steps,
        generator=given.generator,
        falling=True,
        keep_best=True,
        loss=margin,
        patience=patience,
    )


def _jpeg(image: np.ndarray) -> np.ndarray:
    pixels = np.ascontiguousarray(
        (image[::-1].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    )  # HxWx3 BGR
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded.transpose(2, 0, 1)[::-1]).astype(np.float32) / 255
