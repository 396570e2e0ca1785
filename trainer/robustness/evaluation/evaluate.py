"""The evaluation as one call: it measures a target by a budget and returns the report; it prints nothing."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from sdk.errors import UsageError
from trainer.data import Images, keyed_generator
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.defences.judges import Judge
from trainer.robustness.defences.surrogates import BankMean
from trainer.robustness.defences.targets import Target
from trainer.robustness.evaluation import baselines, mixture, suspicion
from trainer.robustness.evaluation.budgets import Budget
from trainer.robustness.evaluation.checks import LARGE_EPS, LARGE_FACTOR, Evidence, gradient_cosine, weigh
from trainer.robustness.evaluation.ladder import OnProgress, Outcome, Step, Worst, climb, per_image_worst
from trainer.robustness.evaluation.report import (
    AtEps,
    Baseline,
    Check,
    Comparison,
    Mixture,
    Report,
    Suspicion,
)
from trainer.robustness.evaluation.rungs import PASSES, Rungs
from trainer.robustness.evaluation.statistics import chance, paired, wilson
from trainer.robustness.evaluation.store import Store

NO_GRADIENT = (
    "blind",
    "bpda-shrinkage",
    "bpda-purifier",
    "square",
)  # rungs that a masked gradient doesn't hinder


@dataclass(frozen=True)
class Settings:
    """What an evaluation is made with.

    Attributes:
        budget: how much is done.
        ball: what the attacker may do.
        seed: of all attacks and draws.
        work: folder where finished batches are kept, for a killed run to go on from.
        on_progress: told of every batch.
    """

    budget: Budget
    ball: Ball
    work: Path
    seed: int = 0
    on_progress: OnProgress = lambda what, done, total: None


@dataclass(frozen=True)
class Evaluation:
    """A report, and the rungs behind it by name."""

    report: Report
    outcomes: dict[str, Outcome]


def evaluate(
    target: Target, images: Images, settings: Settings, *, against: Target | None = None
) -> Evaluation:
    """Climb the budget's ladder with ``target``, and with ``against`` on the same images where one is given.

    Raises:
        UsageError: the images don't fit a target, or no attack on them needs such an eps.
    """
    start = time.perf_counter()
    run = _Run(target, images, settings)
    other = None if against is None else _Run(against, images, settings)  # a misfit is told before the work
    outcomes, remarks = run.ladder()
    rungs = tuple(outcome.rung(images.targets) for outcome in outcomes.values())
    worst = _worst(outcomes, images)
    attacks = [rung.counts.expected.share for rung in rungs if rung.name != "clean"]
    checks, by_eps = run.checks(outcomes)
    report = Report(
        target=target.name,
        digest=target.digest,
        judged_by=target.judge.says,
        attacked="nothing" if worst is None else target.attacked,
        budget=settings.budget.name,
        norm=settings.ball.norm,
        eps=0.0 if worst is None else settings.ball.eps,
        seed=settings.seed,
        images=len(images),
        worst=None if worst is None else worst.rung,
        rungs=rungs,
        baselines=tuple(run.baselines()),
        average=sum(attacks) / len(attacks) if attacks else None,
        by_eps=by_eps,
        checks=checks,
        mixture=run.mixture(outcomes),
        suspicion=run.suspicion(outcomes),
        comparison=None if other is None else _compare(run, outcomes, worst, other),
        remarks=tuple(remarks),
        seconds=0.0,
    )
    seconds = time.perf_counter() - start + sum(each.store.seconds_saved for each in (run, other) if each)
    return Evaluation(msgspec.structs.replace(report, seconds=seconds), outcomes)


def check_fit(target: Target, images: Images) -> None:
    """Refuse images that the target was not made for.

    Raises:
        UsageError: another size, other labels, or no image at all.
    """
    if not len(images):
        raise UsageError("images: expected at least one")
    height, width = images.pixels.shape[2:]
    if (height, width) != (target.height, target.width):
        raise UsageError(
            f"images: {target.name} expects {target.height} x {target.width} pixels, got {height} x {width}"
        )
    if images.labels != target.labels:
        expected, got = (", ".join(labels[:12]) for labels in (target.labels, images.labels))
        raise UsageError(f"images: their labels don't fit {target.name}: expected {expected}, got {got}")


class _Run:
    """One target on one set of images."""

    def __init__(self, target: Target, images: Images, settings: Settings) -> None:
        check_fit(target, images)
        settings.ball.check_reach(target.height, target.width)
        self.target, self.images, self.settings = target, images, settings
        self.draws = settings.budget.draws if target.n_draws > 1 else 1
        self.rungs = Rungs(target, settings.budget, settings.ball, len(images))
        pixels = hashlib.sha256(images.pixels.contiguous().numpy()).hexdigest()
        version = importlib.metadata.version("edge-purify")
        key = (
            version,
            _weights(target),
            target.judge.says,
            target.attacked,
            pixels,
            settings.budget,
            settings.ball,
            settings.seed,
        )
        self.store = Store(settings.work, key)

    def climb(self, step: Step, judge: Judge | None = None, draws: int | None = None) -> Outcome:
        """One rung, judged by the target's judge under the budget's draws unless others are given."""
        settings = self.settings
        return climb(
            step,
            self.images,
            judge or self.target.judge,
            draws=draws or self.draws,
            seed=settings.seed,
            store=self.store,
            on_progress=settings.on_progress,
        )

    def ladder(self) -> tuple[dict[str, Outcome], list[str]]:
        """Every rung that this target and budget allow, and remarks on the others."""
        steps, remarks = self.rungs.steps()
        wanted, different = self.settings.budget.draws, self.target.n_draws
        if self.draws < wanted:
            remarks.append(f"draws: {self.draws} instead of {wanted}, there being no more")
        elif different < wanted:
            remarks.append(f"draws: {wanted} an image, of which at most {different} are different")
        return {step.name: self.climb(step) for step in steps}, remarks

    def checks(self, outcomes: dict[str, Outcome]) -> tuple[tuple[Check, ...], tuple[AtEps, ...]]:
        """The masking checks, and the full-gradient attack by eps; nothing without that attack."""
        budget, ball = self.settings.budget, self.settings.ball
        count = min(budget.check_images, len(self.images))
        if not count or "pgd" not in outcomes:
            return (), ()
        attack = partial(self.rungs.gradient_step, images=count)
        large = Ball(ball.norm, max(LARGE_EPS, ball.eps) if ball.norm == "linf" else LARGE_FACTOR * ball.eps)
        by_eps = {0.0: outcomes["clean"], ball.eps: outcomes["pgd"]}
        for other in (*budget.sweep_of(ball), large):
            by_eps[other.eps] = self.climb(attack(f"pgd eps {other.eps:.4f}", ball=other))
        evidence = Evidence(
            pgd=self._share(outcomes["pgd"], count),
            large_eps=self._share(by_eps[large.eps], count),
            more_steps=self._share(self.climb(attack("pgd steps x2", steps=2 * budget.steps)), count),
            more_samples=self._share(self.climb(attack("pgd samples x2", samples=2 * budget.samples)), count),
            one_draw=self._share(self.climb(self.rungs.one_draw_step(count)), count),
            others={name: self._share(outcomes[name], count) for name in NO_GRADIENT if name in outcomes},
            cosine=self._cosine(count),
            clean_trained=self.target.clean_trained,
        )
        curve = [
            AtEps(eps, wilson(self._share(outcome, count), count)) for eps, outcome in sorted(by_eps.items())
        ]
        return weigh(evidence), tuple(curve)

    def baselines(self) -> list[Baseline]:
        """The undefended classifiers; where the ladder attacks, attacked too, and simple fronts beside."""
        attacked = self.settings.budget.rungs != ("clean",)
        fronts = baselines.FRONTS if attacked else {"undefended": baselines.undefended}
        return baselines.measure(
            self.target.judge,
            self.target.twin if attacked else None,
            self.images,
            fronts=fronts,
            ball=self.settings.ball,
            steps=self.settings.budget.steps,
            step_size=self.settings.budget.step_size_in(self.settings.ball),
            seed=self.settings.seed,
            store=self.store,
            on_progress=self.settings.on_progress,
        )

    def mixture(self, outcomes: dict[str, Outcome]) -> Mixture | None:
        """What randomness adds on the check images; None where there is none, or no attack on it."""
        budget, twin = self.settings.budget, self.target.twin
        count = min(budget.check_images, len(self.images))
        if twin is None or not count or "pgd" not in outcomes or self.target.n_draws == 1:
            return None
        return mixture.measure(
            twin,
            outcomes["pgd"].adversarial[:count],
            self.images.targets[:count],
            partial(self.climb, draws=1),
            ball=self.settings.ball,
            steps=budget.steps,
            step_size=budget.step_size_in(self.settings.ball),
            draws=self.draws,
            seed=self.settings.seed,
            n_classes=len(self.target.labels),
        )

    def suspicion(self, outcomes: dict[str, Outcome]) -> Suspicion | None:
        """The ROC against blind images, and those that evade purifier and suspicion at once."""
        count = min(self.settings.budget.suspicion_images, len(self.images))
        if self.target.twin is None or "blind" not in outcomes or not count:
            return None
        evading = self.climb(self.rungs.evade_both_step(count))
        attacked = {"blind": outcomes["blind"].adversarial[:count], "evade both": evading.adversarial}
        return suspicion.measure(
            self.target.judge,
            outcomes["clean"].adversarial[:count],
            attacked,
            draws=self.draws,
            key=(self.settings.seed, "suspicion"),
        )

    def _cosine(self, count: int) -> float:
        assert self.target.twin is not None
        model = BankMean(self.target.twin, n_classes=len(self.target.labels), samples=1)
        (pixels, labels), *_ = self.images[: min(count, PASSES)].batches(PASSES)
        return gradient_cosine(model, pixels, labels, keyed_generator(self.settings.seed, "cosine"))

    def _share(self, outcome: Outcome, count: int) -> float:
        return float(chance(outcome.scored[:, :count], self.images.targets[:count]).mean())


def _worst(outcomes: dict[str, Outcome], images: Images) -> Worst | None:
    attacked = any(name != "clean" for name in outcomes)
    return per_image_worst(list(outcomes.values()), images.targets) if attacked else None


def _compare(run: _Run, ours: dict[str, Outcome], worst: Worst | None, other: _Run) -> Comparison:
    """Paired: both defences on the same images, each under the attacks on itself."""
    theirs, remarks = other.ladder()
    if (judge := other.target.judge.says) != run.target.judge.says:
        remarks.append(f"judged by {judge}")
    labels, their_worst = other.images.targets, _worst(theirs, other.images)
    pairs = {name: (outcome.scored, theirs[name].scored) for name, outcome in ours.items() if name in theirs}
    if worst is not None and their_worst is not None:
        pairs = {worst.rung.name: (worst.scored, their_worst.scored), **pairs}
    gain = {
        name: paired(*(chance(scored, labels[: scored.shape[1]]) for scored in pair))
        for name, pair in pairs.items()
    }
    rungs = tuple(outcome.rung(labels) for outcome in theirs.values())
    their_rung = None if their_worst is None else their_worst.rung
    return Comparison(other.target.name, their_rung, rungs, gain, tuple(remarks))


def _weights(target: Target) -> object:
    """What of the target an outcome depends on; a bundle's figures and model card may change."""
    if target.bundle is None:
        return target.digest
    manifest = target.bundle.manifest
    return manifest.purifiers, manifest.classifiers, manifest.twin
