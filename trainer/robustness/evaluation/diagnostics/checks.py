"""Signs that an attack was too weak, so that a defence only seems robust (Athalye et al., 2018; Tramer et
al., 2020).

Each check gives the margin attack more than it needs, or compares it with one that must not do better. The
first ones are measured on the same images under the same draws. A rung on survivors is held to what the rungs
before it left of its own images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.robustness.attacks.gradient import gradient
from trainer.robustness.attacks.losses import margin
from trainer.robustness.defences.surrogates import Model
from trainer.robustness.evaluation.report import Check

LARGE_EPS = 64 / 255  # at which little is left to recognize by; for l2, LARGE_FACTOR times the ladder's
LARGE_FACTOR = 8
LARGE_BOUND = 0.02
TOLERANCE = 0.01  # one point
ONE_DRAW_BOUND = 0.10
CLEAN_TRAINED_BOUND = 0.10


@dataclass(frozen=True)
class Loss:
    """What attacks on another loss leave of the same images, in expected accuracies.

    Attributes:
        cross_entropy, other: what the cross-entropy attack leaves, and the other one with all before it.
        is_counted: whether the other one attacked every image that the figure to quote is about.
    """

    cross_entropy: float
    other: float
    is_counted: bool


@dataclass(frozen=True)
class Late:
    """What a rung on some survivors found, in expected accuracies on its images: before it, and after it."""

    before: float
    after: float


@dataclass(frozen=True)
class Evidence:
    """Expected accuracies in [0, 1] on the check images.

    Attributes:
        pgd: the ladder's margin attack.
        large_eps: the same with ``LARGE_EPS``.
        more_steps, more_samples: the same with twice the steps, with twice the samples.
        one_draw: the same on one draw that never changes.
        others: by rung, what attacks leave that need no true gradient: blind, BPDA.
        cosine: mean over images, between the gradients under two draws.
        clean_trained: whether training saw no adversary of the classifier.
        losses: by rung, attacks on other losses than cross-entropy.
        late: by rung, Square and AutoAttack, which come last and on some survivors alone.
    """

    pgd: float
    large_eps: float
    more_steps: float
    more_samples: float
    one_draw: float
    others: Mapping[str, float]
    cosine: float
    clean_trained: bool
    losses: Mapping[str, Loss] = field(default_factory=dict)
    late: Mapping[str, Late] = field(default_factory=dict)


def weigh(evidence: Evidence) -> tuple[Check, ...]:
    """Every check, with what was found and what was expected."""
    parts = (_enough_effort, _no_better_way, _no_better_loss, _nothing_late, _randomness, _plausible)
    return tuple(check for part in parts for check in part(evidence))


def gradient_cosine(model: Model, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
    """Mean cosine between an image's gradients under two samples of ``model``; 0 where one of them is 0."""
    first, second = (
        gradient(model, images, labels, margin, generator=generator).flatten(1) for _ in range(2)
    )
    return float(torch.cosine_similarity(first, second).mean())


def _enough_effort(evidence: Evidence) -> Sequence[Check]:
    pgd, steps, samples = evidence.pgd, evidence.more_steps, evidence.more_samples
    return (
        Check(
            "a huge eps leaves nothing",
            evidence.large_eps <= LARGE_BOUND,
            f"{_percent(evidence.large_eps)} left",
            f"at most {_percent(LARGE_BOUND)}",
        ),
        Check(
            "twice the steps don't help the defence",
            steps <= pgd + TOLERANCE,
            f"{_percent(pgd)}, then {_percent(steps)}",
            "a rise of at most 1 point",
        ),
        Check(
            "twice the samples change nothing",
            abs(samples - pgd) < TOLERANCE,
            f"{_percent(pgd)}, then {_percent(samples)}",
            "a change of less than 1 point",
        ),
    )


def _no_better_way(evidence: Evidence) -> Sequence[Check]:
    return [
        Check(
            f"the true gradient is no weaker than {name}",
            evidence.pgd <= share + TOLERANCE,
            f"{_percent(evidence.pgd)} against {_percent(share)}",
            "at most 1 point more",
        )
        for name, share in evidence.others.items()
    ]


def _no_better_loss(evidence: Evidence) -> Sequence[Check]:
    """Cross-entropy flatters robust models, by about 3 points: harmless where the other loss counts."""
    return [
        Check(
            f"cross-entropy alone doesn't flatter the figure: {name}",
            loss.is_counted or loss.other >= loss.cross_entropy - TOLERANCE,
            f"cross-entropy {_percent(loss.cross_entropy)}, {name} {_percent(loss.other)}, "
            f"climbed on {'every image' if loss.is_counted else 'some images'}",
            "at most 1 point less than cross-entropy, or climbed on every image that the figure is about",
        )
        for name, loss in evidence.losses.items()
    ]


def _nothing_late(evidence: Evidence) -> Sequence[Check]:
    return [
        Check(
            f"{name} finds nothing that the rungs before it missed",
            late.after >= late.before - TOLERANCE,
            f"{_percent(late.before)}, then {_percent(late.after)}",
            "at most 1 point less",
        )
        for name, late in evidence.late.items()
    ]


def _randomness(evidence: Evidence) -> Sequence[Check]:
    one_draw, pgd = evidence.one_draw, evidence.pgd
    return (
        Check(
            "an attack on one draw is nearly as strong",
            one_draw <= pgd + ONE_DRAW_BOUND,
            f"{_percent(one_draw)} against {_percent(pgd)}",
            "at most 10 points more, or attacks that don't average over draws flatter this defence",
        ),
        Check("cosine between the gradients of two draws", None, f"{evidence.cosine:.2f}", "for information"),
    )


def _plausible(evidence: Evidence) -> Sequence[Check]:
    if not evidence.clean_trained:
        return ()
    return (
        Check(
            "clean training gives no robustness",
            evidence.pgd <= CLEAN_TRAINED_BOUND,
            f"{_percent(evidence.pgd)} left",
            f"about 5 %; above {_percent(CLEAN_TRAINED_BOUND)} the attack is at fault until proved otherwise",
        ),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
