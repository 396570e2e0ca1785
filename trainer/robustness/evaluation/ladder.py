"""The ladder: each rung's adversarial images, and what a judge says of them under fresh draws.

The per-image worst is the figure to quote: for every image the attack that one set of draws shows to be the
strongest, scored on another set, so that choosing does not profit from luck. Leaving an image as it is counts
as an attack too.

A rung either attacks its images whatever other rungs did, or only the survivors of the rungs before it: the
images that some draw still gets right under the strongest attack so far. Such a rung takes over the strongest
attack on every other image, so its figure says what is left after all rungs up to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from trainer.data import Images, keyed_generator
from trainer.robustness.defences.judges import Judge
from trainer.robustness.evaluation.statistics import chance
from trainer.robustness.evaluation.steps import Batch, OnProgress, Outcome, Step, batch_name
from trainer.robustness.evaluation.store import Store
from trainer.robustness.evaluation.work import Piece, Tensors, Work
from trainer.robustness.evaluation.worst import strongest_places
from trainer.team import ALONE, Team

EXTENDED_FROM = 0.01  # one point: what a rung on some of the images must find there to be climbed on all


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
        team: the processes that share the batches.
    """

    images: Images
    judge: Judge
    draws: int
    seed: int
    store: Store
    on_progress: OnProgress = lambda what, done, total: None
    team: Team = ALONE

    @property
    def work(self) -> Work:
        return Work(self.store, self.team)

    def climb(self, step: Step) -> Outcome:
        """Attack the first ``step.images`` images batch by batch, and have every result judged."""
        (outcome,) = climb_all([(self, step)])
        return outcome

    def ladder(self, steps: Sequence[Step]) -> dict[str, Outcome]:
        """Climb ``steps``, those on survivors after all others; by name, in the order of ``steps``."""
        apart = [step for step in steps if step.survivors is None]
        climbed = climb_all([(self, step) for step in apart])
        by_name = {outcome.step.name: outcome for outcome in climbed}
        outcomes: dict[str, Outcome] = {}
        for step in steps:
            if step.survivors is not None:
                outcomes[step.name] = self.climb_survivors(step, list(outcomes.values()), step.survivors)
                continue
            found = by_name[step.name]
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
        return self.outcome(step, self.work.do(self.pieces(step, rows, images, start)))

    def pieces(self, step: Step, rows: Tensor, images: Images, start: Tensor | None) -> list[Piece]:
        """The batches of ``_climb``."""
        pieces: list[Piece] = []
        for first in range(0, len(rows), step.batch):
            part = slice(first, min(first + step.batch, len(rows)))
            begin = None if start is None else start[part]
            make = partial(self._one_batch, step, rows[part], images[part], begin)
            before = partial(self.on_progress, step.name, first, len(rows))
            pieces.append(Piece(batch_name(step, rows[part], begin), make, before))
        if pieces:
            pieces[-1] = replace(pieces[-1], after=partial(self.on_progress, step.name, len(rows), len(rows)))
        return pieces

    def outcome(self, step: Step, batches: Sequence[Tensors]) -> Outcome:
        """A rung of what its ``pieces`` came to."""
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

    def _one_batch(self, step: Step, rows: Tensor, images: Images, start: Tensor | None) -> Tensors:
        """The judge's keys don't hold the rung's name: rungs are compared under the same draws.

        With one draw there is nothing to choose by, so it also scores.
        """
        (pixels, labels), *_ = images.batches(len(images))
        adversarial = pixels
        if step.attack is not None:
            generator = keyed_generator(self.seed, "attack", step.key or step.name, int(rows[0]))
            given = Batch(pixels, labels, pixels if start is None else start, generator)
            adversarial = step.attack(given)
        scored = self._answers("score", adversarial, rows)
        chosen = self._answers("choose", adversarial, rows) if self.draws > 1 else scored
        return {"adversarial": adversarial, "chosen": chosen, "scored": scored}

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


def climb_all(climbs: Sequence[tuple[Climber, Step]]) -> list[Outcome]:
    """Climb each step by its climber; all of them have one store and team, which shares out all batches."""
    if not climbs:
        return []
    each = [
        climber.pieces(step, torch.arange(step.images), climber.images[: step.images], None)
        for climber, step in climbs
    ]
    done = iter(climbs[0][0].work.do([piece for pieces in each for piece in pieces]))
    return [
        climber.outcome(step, [next(done) for _ in pieces])
        for (climber, step), pieces in zip(climbs, each, strict=True)
    ]
