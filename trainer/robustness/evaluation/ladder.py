"""The ladder: each rung's adversarial images, and what a judge says of them under fresh draws.

The per-image worst is the figure to quote: for every image the attack that one set of draws shows to be the
strongest, scored on another set, so that choosing does not profit from luck.  Leaving an image as it is
counts as an attack too.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data import Images, keyed_generator
from trainer.robustness.defences.judges import Judge
from trainer.robustness.evaluation.report import Rung
from trainer.robustness.evaluation.statistics import chance, count
from trainer.robustness.evaluation.store import Store

Attack = Callable[[Tensor, Tensor, torch.Generator], Tensor]
OnProgress = Callable[[str, int, int], None]  #: (what, images done, images in all)


@dataclass(frozen=True)
class Step:
    """One rung before it is climbed.

    Attributes:
        name: from ``budgets.RUNGS``.
        says: how the attack is made, for the report.
        attack: (images, labels, generator) -> adversarial images; None leaves them as they are.
        images: the first so many are attacked.
        batch: images attacked at a time.
    """

    name: str
    says: str
    attack: Attack | None
    images: int
    batch: int


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

    def rung(self, labels: Tensor) -> Rung:
        counts = count(self.scored, labels[: self.scored.shape[1]])
        return Rung(self.step.name, self.step.says, counts, self.seconds)


def climb(
    step: Step, images: Images, judge: Judge, *, draws: int, seed: int, store: Store, on_progress: OnProgress
) -> Outcome:
    """Attack the first ``step.images`` of ``images`` batch by batch, and have every result judged.

    With one draw there is nothing to choose by, so it also scores.
    """
    batches = []
    for start in range(0, step.images, step.batch):
        on_progress(step.name, start, step.images)
        name = batch_name(step, start)
        done = store.load(name)
        if done is None:
            rows = slice(start, min(start + step.batch, step.images))
            done = _one_batch(step, images[rows], start, judge, draws, seed)
            store.save(name, done)
        else:
            store.seconds_saved += float(done["seconds"])
        batches.append(done)
    on_progress(step.name, step.images, step.images)
    return Outcome(
        step,
        torch.cat([batch["adversarial"] for batch in batches]),
        torch.cat([batch["chosen"] for batch in batches], dim=1),
        torch.cat([batch["scored"] for batch in batches], dim=1),
        sum(float(batch["seconds"]) for batch in batches),
    )


def batch_name(step: Step, start: int) -> str:
    """What the batch from image ``start`` on is stored as; another for an attack that is made otherwise."""
    made = hashlib.sha256(repr((step.says, step.batch)).encode()).hexdigest()[:8]
    return f"{step.name}-{start:05d}-{made}"


@dataclass(frozen=True)
class Worst:
    """The strongest attack on each image: the rung, and the answers (D, N) to it that score."""

    rung: Rung
    scored: Tensor


def per_image_worst(outcomes: Sequence[Outcome], labels: Tensor) -> Worst:
    """The strongest attack on each image, and among equals the one that is strongest on all of its images.

    An image that a rung left out is judged by the others.
    """
    ranked = sorted(outcomes, key=lambda outcome: float(_chosen_chance(outcome, labels).mean()))
    chances = torch.full((len(ranked), len(labels)), torch.inf, dtype=torch.float64)
    for row, outcome in enumerate(ranked):
        reached = _chosen_chance(outcome, labels)
        chances[row, : len(reached)] = reached
    strongest = chances.argmin(0).tolist()  # of equals the first, N
    answers = torch.stack([ranked[row].scored[:, image] for image, row in enumerate(strongest)], dim=1)
    shares = {
        outcome.step.name: 100 * strongest.count(row) / len(labels) for row, outcome in enumerate(ranked)
    }
    says = "for each image the strongest of " + ", ".join(
        f"{name} {share:.0f} %" for name, share in shares.items()
    )
    seconds = sum(outcome.seconds for outcome in outcomes)
    return Worst(Rung("per-image worst", says, count(answers, labels), seconds), answers)


def keyworded(attack: Callable[..., Tensor]) -> Attack:
    """The ladder's form of an attack that takes its generator by keyword."""
    return lambda images, labels, generator: attack(images, labels, generator=generator)


def _chosen_chance(outcome: Outcome, labels: Tensor) -> Tensor:
    return chance(outcome.chosen, labels[: outcome.chosen.shape[1]])


def _one_batch(
    step: Step, images: Images, first: int, judge: Judge, draws: int, seed: int
) -> dict[str, Tensor]:
    """The keys don't hold the rung's name: rungs are compared image by image, under the same draws."""
    start = time.perf_counter()
    (pixels, labels), *_ = images.batches(len(images))
    generator = keyed_generator(seed, "attack", first)
    adversarial = pixels if step.attack is None else step.attack(pixels, labels, generator)
    scored = judge.probabilities(adversarial, draws=draws, key=(seed, "score"), first=first).argmax(-1)
    chosen = scored
    if draws > 1:
        chosen = judge.probabilities(adversarial, draws=draws, key=(seed, "choose"), first=first).argmax(-1)
    seconds = torch.tensor(time.perf_counter() - start)
    return {"adversarial": adversarial, "chosen": chosen, "scored": scored, "seconds": seconds}
