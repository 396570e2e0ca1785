"""What simple fronts do for the same classifiers: none, fewer grey levels, JPEG.

They are attacked adaptively too, with the gradient of leaving the image as it is (BPDA).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.gradient import pgd
from trainer.robustness.attacks.settled import PATIENCE
from trainer.robustness.defences.judges import Judge, Key
from trainer.robustness.defences.surrogates import Raw, straight_through
from trainer.robustness.evaluation.ladder import Attack, OnProgress, Step, climb
from trainer.robustness.evaluation.report import Baseline
from trainer.robustness.evaluation.store import Store

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
    return (images * levels).round() / levels


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


def measure(
    judge: Judge,
    twin: Defence | None,
    images: Images,
    *,
    fronts: dict[str, Front],
    ball: Ball,
    steps: int,
    step_size: float | None,
    seed: int,
    store: Store,
    on_progress: OnProgress,
) -> list[Baseline]:
    """Each front on clean images and, given a twin, on those that PGD makes against this very front."""
    found = []
    for name, front in fronts.items():
        attacks = {"clean": None}
        if twin is not None:
            attacks["pgd"] = _adaptive(twin, front, ball, steps, step_size, n_classes=len(images.labels))
        figures = {}
        for rung, attack in attacks.items():
            says = "" if attack is None else f"PGD, {steps} steps of {step_size or 'the customary size'}"
            step = Step(f"{name} {rung}", says, attack, len(images), BATCH)
            outcome = climb(
                step,
                images,
                FrontJudge(judge, front),
                draws=1,
                seed=seed,
                store=store,
                on_progress=on_progress,
            )
            figures[rung] = outcome.rung(images.targets).counts.expected
        found.append(Baseline(name, figures))
    return found


def _adaptive(
    twin: Defence, front: Front, ball: Ball, steps: int, step_size: float | None, *, n_classes: int
) -> Attack:
    model = Raw(
        twin, n_classes=n_classes, front=lambda images: straight_through(front(images.detach()), images)
    )
    return lambda images, labels, generator: pgd(
        model,
        images,
        labels,
        ball=ball,
        steps=steps,
        step_size=step_size,
        generator=generator,
        patience=PATIENCE,
    )


def _jpeg(image: np.ndarray) -> np.ndarray:
    pixels = np.ascontiguousarray(
        (image[::-1].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    )  # HxWx3 BGR
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded.transpose(2, 0, 1)[::-1]).astype(np.float32) / 255
