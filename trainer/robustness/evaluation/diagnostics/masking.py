"""The attacks behind the masking checks: the margin attack with more than it needs, and others beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trainer.data import keyed_generator
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.evaluation.diagnostics.checks import (
    LARGE_EPS,
    LARGE_FACTOR,
    Evidence,
    Late,
    Loss,
    gradient_cosine,
    weigh,
)
from trainer.robustness.evaluation.ladder import Climber, climb_all
from trainer.robustness.evaluation.report import AtEps, Check
from trainer.robustness.evaluation.rungs import PASSES, Climb, Rungs
from trainer.robustness.evaluation.statistics import chance, wilson
from trainer.robustness.evaluation.steps import Outcome, Step

NO_GRADIENT = ("blind", "bpda-shrinkage", "bpda-purifier")  # rungs that a masked gradient doesn't hinder
LATE = ("square", "autoattack")  # rungs on some survivors, which must find nothing


class Controls:
    """Measures the evidence on the first ``count`` images of a ladder.

    The margin attack's variants have its own starting points: what differs is what is changed.
    """

    def __init__(self, climber: Climber, rungs: Rungs, count: int, *, clean_trained: bool) -> None:
        self.climber, self.rungs, self.count = climber, rungs, count
        self.clean_trained = clean_trained

    def weigh(self, outcomes: Mapping[str, Outcome]) -> tuple[tuple[Check, ...], tuple[AtEps, ...]]:
        """Every check, and the margin attack by rising eps; ``outcomes`` are the ladder's."""
        ball, budget = self.rungs.ball, self.rungs.budget
        large = Ball(ball.norm, max(LARGE_EPS, ball.eps) if ball.norm == "linf" else LARGE_FACTOR * ball.eps)
        other_eps = {
            other.eps: self._control(f"margin eps {other.eps:.4f}", ball=other)
            for other in (*budget.sweep_of(ball), large)
        }
        steps = [
            *self._missing(outcomes),
            *other_eps.values(),
            more_steps := self._control("margin steps x2", steps=2 * budget.steps),
            more_samples := self._control("margin samples x2", samples=2 * budget.samples),
            one_draw := self.rungs.one_draw_step(self.count),
        ]
        climbed = climb_all([(self.climber, step) for step in steps])
        found = {**outcomes, **{outcome.step.name: outcome for outcome in climbed}}
        by_eps = {0.0: outcomes["clean"], ball.eps: found["pgd-margin"]}
        by_eps |= {eps: found[step.name] for eps, step in other_eps.items()}
        evidence = Evidence(
            pgd=self._share(found["pgd-margin"]),
            large_eps=self._share(by_eps[large.eps]),
            more_steps=self._share(found[more_steps.name]),
            more_samples=self._share(found[more_samples.name]),
            one_draw=self._share(found[one_draw.name]),
            others={name: self._share(outcomes[name]) for name in NO_GRADIENT if name in outcomes},
            cosine=self._cosine(),
            clean_trained=self.clean_trained,
            losses=self._losses(found, of_ladder=outcomes.keys()),
            late=self._late(outcomes),
        )
        curve = [
            AtEps(eps, wilson(self._share(outcome), self.count)) for eps, outcome in sorted(by_eps.items())
        ]
        return weigh(evidence), tuple(curve)

    def _missing(self, outcomes: Mapping[str, Outcome]) -> list[Step]:
        """The two losses that are compared, where the ladder itself lacks one."""
        losses = {"pgd": "cross-entropy", "pgd-margin": "margin"}
        return [
            self.rungs.gradient_step(name, Climb(loss=loss, images=self.count))
            for name, loss in losses.items()
            if name not in outcomes
        ]

    def _control(
        self, name: str, *, ball: Ball | None = None, steps: int | None = None, samples: int | None = None
    ) -> Step:
        climb = Climb(ball=ball, images=self.count, steps=steps, samples=samples, key="pgd-margin")
        return self.rungs.gradient_step(name, climb)

    def _losses(self, outcomes: Mapping[str, Outcome], *, of_ladder: Collection[str]) -> dict[str, Loss]:
        """The margin attack and APGD-T against cross-entropy, on the images that all are about."""
        names = {"margin": "pgd-margin", "apgd-t": "apgd-t"}
        cross_entropy, found = outcomes["pgd"], {}
        for loss, rung in names.items():
            if rung in outcomes:
                other = outcomes[rung]
                count = min(len(cross_entropy), len(other))
                is_counted = rung in of_ladder and len(other) == len(self.climber.images)
                left = self._share(cross_entropy, count), self._share(other, count)
                found[loss] = Loss(*left, is_counted)
        return found

    def _late(self, outcomes: Mapping[str, Outcome]) -> dict[str, Late]:
        """What each late rung found on the survivors of all rungs before it."""
        names, found = list(outcomes), {}
        for name in (rung for rung in LATE if rung in outcomes):
            before, images = [outcomes[one] for one in names[: names.index(name)]], len(outcomes[name])
            left = self.climber.left([*before, outcomes[name]], images)
            found[name] = Late(self.climber.left(before, images), left)
        return found

    def _cosine(self) -> float:
        (pixels, labels), *_ = self.climber.images[: min(self.count, PASSES)].batches(PASSES)
        generator = keyed_generator(self.climber.seed, "cosine")
        return gradient_cosine(self.rungs.mean(1), pixels, labels, generator)

    def _share(self, outcome: Outcome, count: int | None = None) -> float:
        count = self.count if count is None else count
        return float(chance(outcome.scored[:, :count], self.climber.images.targets[:count]).mean())
