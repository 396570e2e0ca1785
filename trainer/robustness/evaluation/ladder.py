"""The ladder: each rung's adversarial images, and what a judge says of them under fresh draws.

The per-image worst is the figure to quote: for every image the attack that one set of draws shows to be the
strongest, scored on another set, so that choosing does not profit from luck. Leaving an image as it is counts
as an attack too.

A rung either attacks its images whatever other rungs did, or only the survivors of the rungs before it: the
images that some draw still gets right under the strongest attack so far. Such a rung takes over the strongest
attack on every other image, so its figure says what is left after all rungs up to it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.data import Images, keyed_generator
from trainer.robustness.defences.judges import Judge
from trainer.robustness.evaluation.report import Rung
from trainer.robustness.evaluation.statistics import chance, count
from trainer.robustness.evaluation.store import Store

OnProgress = Callable[[str, int, int], None]  #: (what, images done, images in all)

EXTENDED_FROM = 0.01  # one point: what a rung on some of the images must find there to be climbed on all


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


@dataclass(frozen=True)
class Climber:
    """Climbs rungs on one set of images before one judge.

    Attributes:
        images: all that are evaluated.
        judge: says what each adversarial image is taken for.
        draws: fresh ones that score each image; as many others choose.
        seed: of all attacks and draws.
        store: where finished batches are kept.
        on_progress: told of every batch.
    """

    images: Images
    judge: Judge
    draws: int
    seed: int
    store: Store
    on_progress: OnProgress = lambda what, done, total: None

    def climb(self, step: Step) -> Outcome:
        """Attack the first ``step.images`` images batch by batch, and have every result judged."""
        return self._climb(step, torch.arange(step.images), self.images[: step.images], None)

    def ladder(self, steps: Iterable[Step]) -> dict[str, Outcome]:
        """Climb ``steps`` in their order; by name."""
        outcomes: dict[str, Outcome] = {}
        for step in steps:
            if step.survivors is not None:
                outcomes[step.name] = self.climb_survivors(step, list(outcomes.values()), step.survivors)
                continue
            found = self.climb(step)
            if step.extends and len(found) < len(self.images) and self._finds_more(found, outcomes):
                found = self._extended(step, found, list(outcomes.values()))
            outcomes[step.name] = found
        return outcomes

    def climb_survivors(self, step: Step, before: Sequence[Outcome], limit: int) -> Outcome:
        """Attack the first ``limit`` survivors of ``before``; other images keep the strongest attack so far.

        The outcome is about the first images up to the last survivor that was attacked, and about all of them
        where every survivor was.
        """
        strongest = self.strongest(before)
        surviving = (chance(strongest.chosen, self.images.targets) > 0).nonzero().squeeze(1)
        stop = len(self.images) if len(surviving) <= limit else int(surviving[limit - 1]) + 1
        rows = surviving[:limit]
        attacked = self._climb(step, rows, self.images[rows], strongest.adversarial[rows])
        adversarial = strongest.adversarial[:stop].clone()
        chosen, scored = strongest.chosen[:, :stop].clone(), strongest.scored[:, :stop].clone()
        adversarial[rows] = attacked.adversarial
        chosen[:, rows], scored[:, rows] = attacked.chosen, attacked.scored
        return Outcome(step, adversarial, chosen, scored, seconds=attacked.seconds)

    def strongest(self, outcomes: Sequence[Outcome]) -> Outcome:
        """The strongest of ``outcomes`` on each image, chosen as ``per_image_worst`` does."""
        places = strongest_places(outcomes, self.images.targets)
        pick = list(enumerate(places))
        return Outcome(
            outcomes[0].step,
            torch.stack([outcomes[place].adversarial[row] for row, place in pick]),
            torch.stack([outcomes[place].chosen[:, row] for row, place in pick], dim=1),
            torch.stack([outcomes[place].scored[:, row] for row, place in pick], dim=1),
            seconds=0.0,
        )

    def left(self, outcomes: Sequence[Outcome], images: int) -> float:
        """Expected accuracy of the first ``images`` under the strongest of ``outcomes`` on each."""
        strongest = self.strongest(outcomes)
        return float(chance(strongest.scored[:, :images], self.images.targets[:images]).mean())

    def _finds_more(self, found: Outcome, outcomes: Mapping[str, Outcome]) -> bool:
        before = list(outcomes.values())
        gain = self.left(before, len(found)) - self.left([*before, found], len(found))
        return gain > EXTENDED_FROM

    def _extended(self, step: Step, first: Outcome, before: Sequence[Outcome]) -> Outcome:
        """``first`` on all images: what it did to its own, and the attack on the survivors of the others."""
        rest = self.climb_survivors(step, [*before, first], len(self.images))
        says = f"{step.says}; on the first {len(first)} images, and on the survivors of the others"
        return Outcome(
            replace(step, says=says),
            torch.cat([first.adversarial, rest.adversarial[len(first) :]]),
            torch.cat([first.chosen, rest.chosen[:, len(first) :]], dim=1),
            torch.cat([first.scored, rest.scored[:, len(first) :]], dim=1),
            seconds=first.seconds + rest.seconds,
        )

    def _climb(self, step: Step, rows: Tensor, images: Images, start: Tensor | None) -> Outcome:
        """Attack ``images``, which lie at ``rows`` of all, from ``start`` on."""
        batches: list[dict[str, Tensor]] = []
        for first in range(0, len(rows), step.batch):
            self.on_progress(step.name, first, len(rows))
            part = slice(first, min(first + step.batch, len(rows)))
            begin = None if start is None else start[part]
            name = batch_name(step, rows[part], begin)
            done = self.store.load(name)
            if done is None:
                done = self._one_batch(step, rows[part], images[part], begin)
                self.store.save(name, done)
            else:
                self.store.seconds_saved += float(done["seconds"])
            batches.append(done)
        self.on_progress(step.name, len(rows), len(rows))
        if not batches:
            empty = torch.zeros(self.draws, 0, dtype=torch.int64)
            nothing = torch.zeros(0, *self.images.pixels.shape[1:])
            return Outcome(step, nothing, empty, empty, seconds=0.0)
        return Outcome(
            step,
            torch.cat([batch["adversarial"] for batch in batches]),
            torch.cat([batch["chosen"] for batch in batches], dim=1),
            torch.cat([batch["scored"] for batch in batches], dim=1),
            seconds=sum(float(batch["seconds"]) for batch in batches),
        )

    def _one_batch(self, step: Step, rows: Tensor, images: Images, start: Tensor | None) -> dict[str, Tensor]:
        """The judge's keys don't hold the rung's name: rungs are compared under the same draws.

        With one draw there is nothing to choose by, so it also scores.
        """
        begun = time.perf_counter()
        (pixels, labels), *_ = images.batches(len(images))
        adversarial = pixels
        if step.attack is not None:
            generator = keyed_generator(self.seed, "attack", step.key or step.name, int(rows[0]))
            given = Batch(pixels, labels, pixels if start is None else start, generator)
            adversarial = step.attack(given)
        scored = self._answers("score", adversarial, rows)
        chosen = self._answers("choose", adversarial, rows) if self.draws > 1 else scored
        seconds = torch.tensor(time.perf_counter() - begun)
        return {"adversarial": adversarial, "chosen": chosen, "scored": scored, "seconds": seconds}

    def _answers(self, purpose: str, images: Tensor, rows: Tensor) -> Tensor:
        """The judge's answers, (draws, B), each image under the draws of its own place."""
        parts, begin = [], 0
        while begin < len(rows):  # one call for every run of neighbours
            end = begin + 1
            while end < len(rows) and rows[end] == rows[end - 1] + 1:
                end += 1
            parts.append(
                self.judge.probabilities(
                    images[begin:end], draws=self.draws, key=(self.seed, purpose), first=int(rows[begin])
                ).argmax(-1)
            )
            begin = end
        return torch.cat(parts, dim=1)


def batch_name(step: Step, rows: Tensor, start: Tensor | None = None) -> str:
    """What the batch on the images at ``rows`` is stored as.

    Another name for an attack that is made otherwise, on other images, or from other starting points.
    """
    held = hashlib.sha256(repr((step.made, step.key, step.batch, rows.tolist())).encode())
    if start is not None:
        held.update(start.contiguous().numpy().tobytes())
    return f"{step.name}-{int(rows[0]):05d}-{held.hexdigest()[:12]}"


@dataclass(frozen=True)
class Worst:
    """The strongest attack on each image: the rung, and the answers (D, N) to it that score."""

    rung: Rung
    scored: Tensor


def per_image_worst(outcomes: Sequence[Outcome], labels: Tensor) -> Worst:
    """The strongest attack on each image, and among equals the one that is strongest on all of its images.

    An image that a rung left out is judged by the others.
    """
    places = strongest_places(outcomes, labels)
    answers = torch.stack([outcomes[place].scored[:, row] for row, place in enumerate(places)], dim=1)
    ranked = sorted(range(len(outcomes)), key=lambda place: _overall(outcomes[place], labels))
    shares = {outcomes[place].step.name: 100 * places.count(place) / len(labels) for place in ranked}
    says = "for each image the strongest of " + ", ".join(
        f"{name} {share:.0f} %" for name, share in shares.items()
    )
    seconds = sum(outcome.seconds for outcome in outcomes)
    return Worst(Rung("per-image worst", says, count(answers, labels), seconds), answers)


def strongest_places(outcomes: Sequence[Outcome], labels: Tensor) -> list[int]:
    """For each image the place in ``outcomes`` of the strongest attack on it.

    Of attacks that are as strong, first an attack of its own before one that took another rung's image over,
    then the one that leaves less over all of its images.
    """
    ranked = sorted(
        range(len(outcomes)),
        key=lambda place: (outcomes[place].step.survivors is not None, _overall(outcomes[place], labels)),
    )
    chances = torch.full((len(ranked), len(labels)), torch.inf, dtype=torch.float64)
    for row, place in enumerate(ranked):
        reached = _chosen_chance(outcomes[place], labels)
        chances[row, : len(reached)] = reached
    return [ranked[row] for row in chances.argmin(0).tolist()]  # of equals the first


def _overall(outcome: Outcome, labels: Tensor) -> float:
    return float(_chosen_chance(outcome, labels).mean())


def _chosen_chance(outcome: Outcome, labels: Tensor) -> Tensor:
    return chance(outcome.chosen, labels[: len(outcome)])
