"""Which attacks a budget makes on a target, in words and as functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from trainer.models import Defence
from trainer.robustness.attacks.arc import arc
from trainer.robustness.attacks.autoattack import MIN_CLASSES, autoattack
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.evasion import be_accepted, evade_both
from trainer.robustness.attacks.gradient import pgd
from trainer.robustness.attacks.losses import LOSSES
from trainer.robustness.attacks.settled import patience_for
from trainer.robustness.attacks.square import square
from trainer.robustness.attacks.targeted import apgd_targeted
from trainer.robustness.defences.judges import Judge, TorchJudge
from trainer.robustness.defences.surrogates import (
    BankMean,
    Frozen,
    Mean,
    Model,
    Purify,
    Queries,
    Raw,
    full_gradient,
    has_shrinkage,
    identity_purifier,
    identity_shrinkage,
    log_mean,
    mean_log,
)
from trainer.robustness.defences.targets import Target
from trainer.robustness.evaluation import wording
from trainer.robustness.evaluation.budgets import EVERY_SURVIVOR, Budget
from trainer.robustness.evaluation.steps import Attack, Batch, Step

PASSES = 128  # purifier passes that are differentiated at a time: half a gigabyte for the edge models
QUERY_BATCH = 50
AUTOATTACK_BATCH = 50


@dataclass(frozen=True)
class Climb:
    """A gradient attack on the bank's mean.

    Attributes:
        loss: from ``losses.LOSSES``. Margin takes falling steps and keeps the best iterate; the others take
            the budget's steps and keep the last one.
        purify: how the backward pass goes through the purifier.
        ball: the ladder's where it is None.
        images: the first so many; all where it is None.
        steps, samples: the budget's where they are None.
        key: of its random numbers; the rung's name where it is empty.
        extends: see ``steps.Step``.
    """

    loss: str = "margin"
    purify: Purify = full_gradient
    ball: Ball | None = None
    images: int | None = None
    steps: int | None = None
    samples: int | None = None
    key: str = ""
    extends: bool = False


_MEANS = {"margin": mean_log, "cross-entropy": log_mean, "dlr": mean_log}  # by loss; see ``surrogates``


class Rungs:
    """The steps of a ladder on ``images`` images of one target.

    ``bfloat16`` is the number format of the attacks on the bank's mean. ``ordinary`` is an ordinary
    classifier, whose attacks are shown to the target; None leaves that rung out.
    """

    def __init__(
        self,
        target: Target,
        budget: Budget,
        ball: Ball,
        images: int,
        *,
        bfloat16: bool = False,
        ordinary: Target | None = None,
    ) -> None:
        self.bfloat16 = bfloat16
        self.budget, self.ball, self.images = budget, ball, images
        self.judge, self.twin, self.n_classes = target.judge, target.twin, len(target.labels)
        self.fp32_twin, self.ordinary = target.fp32_twin, ordinary
        self.few = min(images, budget.few)

    def steps(self) -> tuple[list[Step], list[str]]:
        """The rungs that this budget and target allow, and a remark for each that was left out."""
        few = partial(Climb, loss="cross-entropy", images=self.few, extends=True)
        makers: dict[str, Callable[[], Step]] = {
            "clean": self._clean,
            "ordinary": self._ordinary,
            "blind": self._blind,
            "transfer": self._transfer,
            "pgd-margin": partial(self.gradient_step, "pgd-margin", Climb()),
            "apgd-t": self._targeted,
            "pgd": partial(self.gradient_step, "pgd", few()),
            "bpda-shrinkage": partial(self.gradient_step, "bpda-shrinkage", few(purify=identity_shrinkage)),
            "bpda-purifier": partial(self.gradient_step, "bpda-purifier", few(purify=identity_purifier)),
            "arc": self._arc,
            "square": self._square,
            "autoattack": self._autoattack,
        }
        absent = {"transfer": self.fp32_twin is None, "ordinary": self.ordinary is None}
        rungs = [name for name in self.budget.rungs if not absent.get(name, False)]
        why_not = {name: self._why_not(name) for name in rungs}
        steps = [makers[name]() for name, reason in why_not.items() if reason is None]
        return steps, [f"{name}: left out, {reason}" for name, reason in why_not.items() if reason]

    def gradient_step(self, name: str, climb: Climb) -> Step:
        """PGD on the bank's mean."""
        ball, steps = climb.ball or self.ball, climb.steps or self.budget.steps
        samples, way = climb.samples or self.budget.samples, climb.purify.__name__
        model = self.mean(samples, climb.purify, _MEANS[climb.loss])
        return Step(
            name,
            self._ascent(model, climb.loss, ball=ball, steps=steps, patience=patience_for(model.n_members)),
            climb.images or self.images,
            max(1, PASSES // self.mean(self.budget.samples).samples),  # and so the same starting points
            says=wording.gradient(climb.loss, steps, model.samples, way),
            made=(climb.loss, way, ball, steps, model.samples, self.bfloat16),
            key=climb.key or name,
            extends=climb.extends,
        )

    def mean(self, samples: int, purify: Purify = full_gradient, mean: Mean = log_mean) -> BankMean:
        """The twin's mean over ``samples`` purifier passes."""
        return self._mean_of(self.twin, samples, purify, mean)

    def one_draw_step(self, images: int) -> Step:
        """PGD on a single purifier and random input that never change: an attacker who forgets to average."""
        steps = self.budget.steps
        attack = self._ascent(Frozen(self.mean(1, mean=mean_log), seed=0), "margin")
        says, made = wording.one_draw(steps), (self.ball, steps, self.bfloat16)
        return Step("one draw", attack, images, PASSES, says=says, made=made, key="pgd-margin")

    def evade_both_step(self, images: int) -> Step:
        """The attack on the defence and on suspicion at once."""
        steps, defended = self.budget.steps, self.mean(self.budget.samples, mean=mean_log)
        raw = Raw(self.twin, n_classes=self.n_classes, mean=mean_log)
        attack = _on(partial(evade_both, defended, raw, ball=self.ball, steps=steps))
        batch, made = max(1, PASSES // defended.samples), (self.ball, steps, defended.samples, self.bfloat16)
        return Step("evade both", attack, images, batch, made=made)

    def be_accepted_step(self, images: int) -> Step:
        """The attack that wants a wrong answer of a high score."""
        steps, defended = self.budget.steps, self.mean(self.budget.samples)
        attack = _on(partial(be_accepted, defended, ball=self.ball, steps=steps))
        batch, made = max(1, PASSES // defended.samples), (self.ball, steps, defended.samples, self.bfloat16)
        return Step("be accepted", attack, images, batch, made=made)

    def _clean(self) -> Step:
        return Step("clean", None, self.images, PASSES, says=wording.CLEAN)

    def _ordinary(self) -> Step:
        assert self.ordinary is not None
        steps = self.budget.steps
        attack = self._ascent(Raw(self.ordinary.twin, n_classes=self.n_classes), "cross-entropy")
        says, made = wording.ordinary(steps, self.ordinary.name), (self.ball, steps, self.ordinary.digest)
        return Step("ordinary", attack, self.images, PASSES, says=says, made=made)

    def _blind(self) -> Step:
        steps, model = self.budget.steps, Raw(self.twin, n_classes=self.n_classes)
        # no patience: what has beaten the classifiers goes on to get worse for the purifiers, unseen
        attack = self._ascent(model, "cross-entropy")
        says, made = wording.blind(steps), (self.ball, steps)
        return Step("blind", attack, self.images, PASSES, says=says, made=made)

    def _transfer(self) -> Step:
        assert self.fp32_twin is not None
        steps = self.budget.steps
        model = self._mean_of(self.fp32_twin, self.budget.samples, full_gradient, mean_log)
        attack = self._ascent(model, "margin", patience=patience_for(model.n_members))
        batch, made = max(1, PASSES // model.samples), (self.ball, steps, model.samples, self.bfloat16)
        return Step("transfer", attack, self.images, batch, says=wording.transfer(steps), made=made)

    def _targeted(self) -> Step:
        model, steps = self.mean(self.budget.samples, mean=mean_log), self.budget.target_steps
        targets = min(self.budget.targets, self.n_classes - 1)
        attack = partial(apgd_targeted, model, ball=self.ball, steps=steps, targets=targets)
        batch, made = max(1, PASSES // model.samples), (targets, steps, model.samples)
        return self._on_survivors("apgd-t", _from_start(attack), batch, made)

    def _arc(self) -> Step:
        model, rounds = self.mean(self.twin.n_purifiers), self.budget.arc_rounds
        attack = partial(arc, model, ball=self.ball, steps=rounds)
        return self._on_survivors("arc", _on(attack), max(1, PASSES // model.samples), (rounds,))

    def _square(self) -> Step:
        judge: Judge = TorchJudge(self.twin, "twin")
        draws, queries = self.budget.query_draws, self.budget.queries
        model = Queries(judge, draws=draws, n_classes=self.n_classes)
        search = partial(square, model, ball=self.ball, queries=queries, random_model=True)
        return self._on_survivors("square", _from_start(search), QUERY_BATCH, (queries, draws))

    def _autoattack(self) -> Step:
        model = self.mean(self.budget.autoattack_samples, mean=mean_log)
        attack = partial(autoattack, model, ball=self.ball, batch=max(1, PASSES // model.samples))
        return self._on_survivors("autoattack", _from_start(attack), AUTOATTACK_BATCH, (model.samples,))

    def _on_survivors(self, name: str, attack: Attack, batch: int, made: tuple[int, ...]) -> Step:
        """``made`` are the attack's own settings, in the order in which ``wording`` says them."""
        every = name == "apgd-t" or self.budget.survivors >= self.images
        survivors = EVERY_SURVIVOR if every else self.budget.survivors
        says = wording.on_survivors(name, made, None if every else survivors)
        made_of = (self.ball, self.bfloat16, *made)
        return Step(name, attack, self.images, batch, says=says, made=made_of, survivors=survivors)

    def _why_not(self, name: str) -> str | None:
        if name == "autoattack" and self.n_classes < MIN_CLASSES:
            return "its targeted losses need four classes"
        if name == "bpda-shrinkage" and not has_shrinkage(self.twin):
            is_known = getattr(self.twin.purifier, "unrounded", True) is not None
            return (
                "the purifier has no shrinkage" if is_known else "the purifiers' weights aren't in the bundle"
            )
        return None

    def _ascent(
        self,
        model: Model,
        loss: str,
        *,
        ball: Ball | None = None,
        steps: int | None = None,
        patience: int | None = None,
    ) -> Attack:
        """PGD with the step sizes of its loss; ball and steps are the budget's where they are None."""
        ball, steps = ball or self.ball, steps or self.budget.steps
        falling = loss == "margin"
        step_size = self.budget.step_size_in(ball) if ball == self.ball and not falling else None
        attack = partial(
            pgd,
            model,
            ball=ball,
            steps=steps,
            step_size=step_size,
            falling=falling,
            keep_best=falling,
            loss=LOSSES[loss],
            patience=patience,
        )
        return _on(attack)

    def _mean_of(self, twin: Defence, samples: int, purify: Purify, mean: Mean) -> BankMean:
        return BankMean(
            twin, n_classes=self.n_classes, samples=samples, purify=purify, mean=mean, bfloat16=self.bfloat16
        )


def _on(attack: Callable[..., Tensor]) -> Attack:
    """An attack that takes no notice of other rungs, in the ladder's form."""
    return lambda given: attack(given.images, given.labels, generator=given.generator)


def _from_start(attack: Callable[..., Tensor]) -> Attack:
    """An attack that goes on from the strongest so far, in the ladder's form."""

    def goes_on(given: Batch) -> Tensor:
        return attack(given.images, given.labels, generator=given.generator, start=given.start)

    return goes_on
