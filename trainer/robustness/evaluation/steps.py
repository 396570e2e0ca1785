"""A rung before and after it is climbed: which attack on which images, and what a judge said of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.robustness.evaluation.report import Rung
from trainer.robustness.evaluation.statistics import count

OnProgress = Callable[[str, int, int], None]  #: (what, images done, images in all)


@dataclass(frozen=True)
class Batch:
    """What an attack is given.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        labels: (B,).
        start: (B, 3, H, W), the strongest attack so far on each image; the images themselves on a rung that
            takes no notice of others.
        generator: of all the attack's randomness.
    """

    images: Tensor
    labels: Tensor
    start: Tensor
    generator: torch.Generator


Attack = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Step:
    """One rung before it is climbed.

    Attributes:
        name: from ``budgets.RUNGS``.
        attack: gives adversarial images; None leaves them as they are.
        images: the first so many are attacked; of a rung on survivors, those that end with survivor number
            ``survivors``.
        batch: images attacked at a time.
        says: how the attack is made, for the report.
        made: everything that decides how the attack is made and that the store's key doesn't hold.
        key: names the attack's random numbers; the rung's name by default.
        survivors: attack only so many survivors of the rungs before; None attacks every image.
        extends: on survivors, and on all of them, where this rung leaves a point less than those before did.
    """

    name: str
    attack: Attack | None
    images: int
    batch: int
    says: str = ""
    made: tuple[object, ...] = ()
    key: str = ""
    survivors: int | None = None
    extends: bool = False


@dataclass(frozen=True)
class Outcome:
    """A rung that was climbed; N images, D draws.

    Attributes:
        step: what was done.
        adversarial: (N, 3, H, W) in [0, 1].
        chosen: (D, N) int64, the answers by which the per-image worst is chosen.
        scored: (D, N) int64, the answers by which everything is scored.
        seconds: spent on it, over all runs if it was resumed.
    """

    step: Step
    adversarial: Tensor
    chosen: Tensor
    scored: Tensor
    seconds: float

    def __len__(self) -> int:
        return self.scored.shape[1]

    def rung(self, labels: Tensor) -> Rung:
        counts = count(self.scored, labels[: len(self)])
        return Rung(self.step.name, self.step.says, counts, self.seconds)


def batch_name(step: Step, rows: Tensor, start: Tensor | None = None) -> str:
    """What the batch on the images at ``rows`` is stored as.

    Another name for an attack that is made otherwise, on other images, or from other starting points.
    """
    held = hashlib.sha256(repr((step.made, step.key, step.batch, rows.tolist())).encode())
    if start is not None:
        held.update(start.contiguous().numpy().tobytes())
    return f"{step.name}-{int(rows[0]):05d}-{held.hexdigest()[:12]}"
