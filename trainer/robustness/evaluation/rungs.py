"""Which attacks a budget makes on a target, in words and as functions."""

from __future__ import annotations

from functools import partial

from trainer.models import Defence
from trainer.robustness.attacks.arc import arc
from trainer.robustness.attacks.autoattack import MIN_CLASSES, autoattack
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.gradient import pgd
from trainer.robustness.attacks.settled import PATIENCE
from trainer.robustness.attacks.square import square
from trainer.robustness.defences.judges import Judge, TorchJudge
from trainer.robustness.defences.surrogates import (
    BankMean,
    Frozen,
    Model,
    Purify,
    Queries,
    Raw,
    full_gradient,
    has_shrinkage,
    identity_purifier,
    identity_shrinkage,
)
from trainer.robustness.defences.targets import Target
from trainer.robustness.evaluation.budgets import Budget
from trainer.robustness.evaluation.ladder import Attack, Step, keyworded
from trainer.robustness.evaluation.suspicion import evade_both

PASSES = 256  # purifier passes that are differentiated at a time: about a gigabyte for the edge models
CLEAN = "the images as they are"
ARC_ROUNDS = 20  # the paper's number
QUERY_BATCH = 50
AUTOATTACK_BATCH = 100


class Rungs:
    """The steps of a ladder on ``images`` images of one target."""

    def __init__(self, target: Target, budget: Budget, ball: Ball, images: int) -> None:
        self.budget, self.ball, self.images = budget, ball, images
        self.judge, self.twin, self.n_classes = target.judge, target.twin, len(target.labels)
        self.few = min(images, budget.few)

    def steps(self) -> tuple[list[Step], list[str]]:
        """The rungs that this budget and target allow, and a remark for each that was left out."""
        makers = {
            "clean": self._clean,
            "blind": self._blind,
            "bpda-shrinkage": partial(self.gradient_step, "bpda-shrinkage", purify=identity_shrinkage),
            "bpda-purifier": partial(self.gradient_step, "bpda-purifier", purify=identity_purifier),
            "pgd": self.gradient_step,
            "arc": self._arc,
            "autoattack": self._autoattack,
            "square": self._square,
        }
        why_not = {name: self._why_not(name) for name in self.budget.rungs}
        steps = [makers[name]() for name, reason in why_not.items() if reason is None]
        return steps, [f"{name}: left out, {reason}" for name, reason in why_not.items() if reason]

    def gradient_step(
        self,
        name: str = "pgd",
        *,
        purify: Purify = full_gradient,
        ball: Ball | None = None,
        images: int | None = None,
        steps: int | None = None,
        samples: int | None = None,
    ) -> Step:
        """PGD on the bank's mean, by the budget's settings but for what is given."""
        steps, samples, ball = steps or self.budget.steps, samples or self.budget.samples, ball or self.ball
        model = BankMean(self._twin(), n_classes=self.n_classes, samples=samples, purify=purify)
        mean = f"averaged over {model.samples} purifier passes and all classifiers"
        stop = f"stopping on an image once {PATIENCE} such means in a row hold no sub-model that is right"
        says = f"PGD, {steps} steps, each {mean}, {_WAYS[purify]}, {stop}"
        attack = self._ascent(model, ball, steps, patience=PATIENCE)
        return Step(name, says, attack, images or self.images, max(1, PASSES // model.samples))

    def one_draw_step(self, images: int) -> Step:
        """PGD on a single purifier and random input that never change: an attacker who forgets to average."""
        model = Frozen(BankMean(self._twin(), n_classes=self.n_classes, samples=1), seed=0)
        attack = self._ascent(model, self.ball, self.budget.steps)
        return Step(
            "pgd one draw", f"PGD, {self.budget.steps} steps on one fixed draw", attack, images, PASSES
        )

    def evade_both_step(self, images: int) -> Step:
        """The attack on the defence and on suspicion at once."""
        defended = BankMean(self._twin(), n_classes=self.n_classes, samples=self.budget.samples)
        raw = Raw(self._twin(), n_classes=self.n_classes)
        attack = keyworded(partial(evade_both, defended, raw, ball=self.ball, steps=self.budget.steps))
        return Step("evade both", "", attack, images, max(1, PASSES // defended.samples))

    def _clean(self) -> Step:
        return Step("clean", CLEAN, None, self.images, PASSES)

    def _blind(self) -> Step:
        model = Raw(self._twin(), n_classes=self.n_classes)
        # no patience: what has beaten the classifiers goes on to get worse for the purifiers, unseen
        says = f"PGD, {self.budget.steps} steps on the classifiers alone, then shown to the whole defence"
        return Step("blind", says, self._ascent(model, self.ball, self.budget.steps), self.images, PASSES)

    def _arc(self) -> Step:
        model = BankMean(self._twin(), n_classes=self.n_classes, samples=self._twin().n_purifiers)
        rounds = min(self.budget.steps, ARC_ROUNDS)
        says = f"ARC, {rounds} rounds over every pair of purifier and classifier, or until none is right"
        attack = keyworded(partial(arc, model, ball=self.ball, steps=rounds))
        return Step("arc", says, attack, self.few, max(1, PASSES // model.samples))

    def _autoattack(self) -> Step:
        model = BankMean(self._twin(), n_classes=self.n_classes, samples=self.budget.autoattack_samples)
        says = (
            f"AutoAttack, standard, on the mean of {model.samples} fixed purifier passes and all classifiers"
        )
        batch = max(1, PASSES // model.samples)
        attack = keyworded(partial(autoattack, model, ball=self.ball, batch=batch))
        return Step("autoattack", says, attack, self.few, AUTOATTACK_BATCH)

    def _square(self) -> Step:
        judge: Judge = self.judge if self.twin is None else TorchJudge(self.twin, "twin")
        model = Queries(judge, draws=self.budget.query_draws, n_classes=self.n_classes)
        says = f"Square, {self.budget.queries} queries, each the mean of {self.budget.query_draws} draws"
        search = partial(square, model, ball=self.ball, queries=self.budget.queries, random_model=True)
        return Step("square", says, keyworded(search), self.few, QUERY_BATCH)

    def _why_not(self, name: str) -> str | None:
        if self.twin is None and name not in ("clean", "square"):
            return "the bundle has no twin: white-box not measured"
        if name == "autoattack" and self.n_classes < MIN_CLASSES:
            return "its targeted losses need four classes"
        if name == "bpda-shrinkage" and not has_shrinkage(self._twin()):
            return "the purifier has no shrinkage"
        return None

    def _ascent(self, model: Model, ball: Ball, steps: int, patience: int | None = None) -> Attack:
        step_size = self.budget.step_size_in(ball) if ball == self.ball else None
        return keyworded(partial(pgd, model, ball=ball, steps=steps, step_size=step_size, patience=patience))

    def _twin(self) -> Defence:
        assert self.twin is not None
        return self.twin


_WAYS = {
    full_gradient: "true gradient",
    identity_shrinkage: "gradient past the shrinkage (BPDA)",
    identity_purifier: "gradient past the purifier (BPDA)",
}
