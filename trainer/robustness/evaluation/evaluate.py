"""The evaluation as one call: it measures a target by a budget and returns the report; it prints nothing."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
from torch import Tensor

from sdk.errors import UsageError
from trainer.data import Images
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.eot import IMAGES, Samples, bfloat16_is_fast, choose_samples
from trainer.robustness.defences.judges import EngineJudge, TorchJudge
from trainer.robustness.defences.quantized import EnginePurifier
from trainer.robustness.defences.surrogates import BankMean, mean_log
from trainer.robustness.defences.targets import Target
from trainer.robustness.evaluation.budgets import Budget
from trainer.robustness.evaluation.diagnostics import baselines, confidence, mixture, suspicion
from trainer.robustness.evaluation.diagnostics.masking import Controls
from trainer.robustness.evaluation.ladder import Climber
from trainer.robustness.evaluation.report import (
    AtEps,
    Baseline,
    Check,
    Comparison,
    Confidence,
    Engines,
    Mixture,
    Report,
    Suspicion,
)
from trainer.robustness.evaluation.rungs import Rungs
from trainer.robustness.evaluation.statistics import chance, paired
from trainer.robustness.evaluation.steps import OnProgress, Outcome
from trainer.robustness.evaluation.store import Store
from trainer.robustness.evaluation.work import SharedDrawingJudge, SharedJudge
from trainer.robustness.evaluation.worst import Worst, per_image_worst
from trainer.team import ALONE, Team


@dataclass(frozen=True)
class Settings:
    """What an evaluation is made with.

    Attributes:
        budget: how much is done.
        ball: what the attacker may do.
        seed: of all attacks and draws.
        work: folder where finished batches are kept, for a killed run to go on from.
        on_progress: told of every batch.
        team: the processes that share the work; the report is the same however many they are.
    """

    budget: Budget
    ball: Ball
    work: Path
    seed: int = 0
    on_progress: OnProgress = lambda what, done, total: None
    team: Team = ALONE


@dataclass(frozen=True)
class Evaluation:
    """A report, and the rungs behind it by name."""

    report: Report
    outcomes: dict[str, Outcome]


def evaluate(
    target: Target,
    images: Images,
    settings: Settings,
    *,
    against: Target | None = None,
    ordinary: Target | None = None,
) -> Evaluation:
    """Climb the budget's ladder with ``target``, and with ``against`` on the same images where one is given.

    Args:
        ordinary: a classifier as people usually deploy it; attacks on it alone are a rung of both ladders.

    Raises:
        UsageError: the images don't fit a target, or no attack on them needs such an eps.
    """
    start = time.perf_counter()
    run = _Run(target, images, settings, ordinary)
    other = (
        None if against is None else _Run(against, images, settings, ordinary)
    )  # a misfit is told before the work
    outcomes, remarks = run.ladder()
    rungs = tuple(outcome.rung(images.targets) for outcome in outcomes.values())
    worst = _worst(outcomes, images)
    attacks = [out.rung(images.targets).counts.expected.share for out in outcomes.values() if _is_single(out)]
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
        engines=_engines(target),
        confidence=run.confidence(outcomes),
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


def _engines(target: Target) -> Engines | None:
    if not isinstance(target.judge, EngineJudge):
        return None
    backend = target.judge.backend
    return Engines(backend.name, backend.version, backend.precision)


def _is_single(outcome: Outcome) -> bool:
    """Whether it is one attack on its own, which neither leaves the images alone nor goes on from others."""
    return outcome.step.attack is not None and outcome.step.survivors is None


class _Run:
    """One target on one set of images."""

    def __init__(
        self, target: Target, images: Images, settings: Settings, ordinary: Target | None = None
    ) -> None:
        for each in (target, ordinary):
            if each is not None:
                check_fit(each, images)
        settings.ball.check_reach(target.height, target.width)
        self.target, self.images, self.settings = target, images, settings
        self.draws = settings.budget.draws if target.n_draws > 1 else 1
        key = (
            importlib.metadata.version("edge-purify"),
            _weights(target),
            target.judge.says,
            target.attacked,
            hashlib.sha256(images.pixels.contiguous().numpy().tobytes()).hexdigest(),
            images.targets.tolist(),
            images.labels,
            settings.budget,
            settings.ball,
            settings.seed,
        )
        self.store = Store(settings.work, key)
        self.climber = Climber(
            images,
            target.judge,
            self.draws,
            seed=settings.seed,
            store=self.store,
            on_progress=settings.on_progress,
            team=settings.team,
        )
        chosen = settings.team.from_first(lambda: msgspec.to_builtins(self._samples()))
        self.samples = None if chosen is None else Samples(**chosen)
        budget = settings.budget
        bfloat16 = False
        if self.samples is not None:
            budget = msgspec.structs.replace(budget, samples=self.samples.count)
            bfloat16 = self.samples.bfloat16
        self.rungs = Rungs(target, budget, settings.ball, len(images), bfloat16=bfloat16, ordinary=ordinary)

    def ladder(self) -> tuple[dict[str, Outcome], list[str]]:
        """Every rung that this target and budget allow, and remarks on the others."""
        steps, remarks = self.rungs.steps()
        wanted, different = self.settings.budget.draws, self.target.n_draws
        if self.draws < wanted:
            remarks.append(f"draws: {self.draws} instead of {wanted}, there being no more")
        elif different < wanted:
            remarks.append(f"draws: {wanted} an image, of which at most {different} are different")
        if self.samples is not None:
            remarks.append(f"gradients: {self.samples}")
        return self.climber.ladder(steps), remarks

    def checks(self, outcomes: dict[str, Outcome]) -> tuple[tuple[Check, ...], tuple[AtEps, ...]]:
        """The masking checks, and the margin attack by eps; nothing where no gradient attack is climbed."""
        budget = self.settings.budget
        count = min(budget.check_images, len(self.images))
        if not count or not {"pgd", "pgd-margin"} & outcomes.keys():
            return (), ()
        controls = Controls(self.climber, self.rungs, count, clean_trained=self.target.clean_trained)
        return controls.weigh(outcomes)

    def baselines(self) -> list[Baseline]:
        """The undefended classifiers; where the ladder attacks, attacked too, and simple fronts beside."""
        budget, twin = self.settings.budget, self.target.twin
        if budget.rungs == ("clean",):
            return baselines.measure(self.climber, {"undefended": baselines.undefended}, None)
        attacks = baselines.Attacks(twin, self.settings.ball, budget.steps)
        few = replace(self.climber, images=self.images[: budget.few])
        return baselines.measure(few, baselines.FRONTS, attacks)

    def mixture(self, outcomes: dict[str, Outcome]) -> Mixture | None:
        """What randomness adds on the check images; None where there is none, or no attack on it."""
        budget, twin = self.settings.budget, self.target.twin
        count = min(budget.check_images, len(self.images))
        attack = outcomes.get("pgd-margin", outcomes.get("pgd"))
        if not count or attack is None or self.target.n_draws == 1:
            return None
        setting = mixture.Setting(self.settings.ball, budget.steps, self.draws, self.settings.seed)
        some = replace(self.climber, images=self.images[:count])
        return mixture.measure(twin, attack.adversarial[:count], some, setting)

    def suspicion(self, outcomes: dict[str, Outcome]) -> Suspicion | None:
        """The ROC against blind images, and those that evade purifier and suspicion at once."""
        count = min(self.settings.budget.suspicion_images, len(self.images))
        judge = self.target.judge
        if "blind" not in outcomes or not count:
            return None
        if not isinstance(judge, EngineJudge | TorchJudge):
            return None
        evading = self.climber.climb(self.rungs.evade_both_step(count))
        attacked = {"blind": outcomes["blind"].adversarial[:count], "evade both": evading.adversarial}
        return suspicion.measure(
            SharedDrawingJudge(judge, self.climber.work),
            outcomes["clean"].adversarial[:count],
            attacked,
            draws=self.draws,
            key=(self.settings.seed, "suspicion"),
        )

    def confidence(self, outcomes: dict[str, Outcome]) -> Confidence | None:
        """Calibration, and risk by coverage: clean, under attacks that are blind, and under adaptive ones."""
        count = min(self.settings.budget.suspicion_images, len(self.images))
        if "blind" not in outcomes or not count:
            return None
        known = [name for name in ("clean", "ordinary", "blind") if name in outcomes]
        adaptive = [outcome for name, outcome in outcomes.items() if name not in known]
        attacked: dict[str, Tensor] = {name: outcomes[name].adversarial[:count] for name in known}
        if adaptive:
            strongest = self.climber.strongest([outcomes["clean"], *adaptive])
            attacked["adaptive"] = strongest.adversarial[:count]
        wanting = self.climber.climb(self.rungs.be_accepted_step(count))
        attacked["adaptive, wants acceptance"] = wanting.adversarial
        key = (self.settings.seed, "confidence")
        labels = self.images.targets[:count]
        judge = SharedJudge(self.target.judge, self.climber.work)
        return confidence.measure(judge, attacked, labels, draws=self.draws, key=key)

    def _samples(self) -> Samples | None:
        """How many passes a gradient takes; None where nothing is attacked by gradients or drawn."""
        budget, twin, n_classes = self.settings.budget, self.target.twin, len(self.target.labels)
        if budget.rungs == ("clean",) or self.target.n_draws == 1:
            return None
        (pixels, labels), *_ = self.images[:IMAGES].batches(IMAGES)
        return choose_samples(
            partial(_mean_of, twin, n_classes),
            pixels,
            labels,
            ball=self.settings.ball,
            most=budget.samples,
            seed=self.settings.seed,
            may_round=bfloat16_is_fast() and not isinstance(twin.purifier, EnginePurifier),
        )


def _mean_of(twin: Defence, n_classes: int, samples: int, *, bfloat16: bool) -> BankMean:
    return BankMean(twin, n_classes=n_classes, samples=samples, mean=mean_log, bfloat16=bfloat16)


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
