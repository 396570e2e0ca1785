"""How well suspicion tells attacks from clean images, also from an attacker who evades both purifier and
suspicion.

Suspicion is the runtime's, ``sdk.suspicion``, as a frame's Result has it with one vote: how far what the
drawn classifier says of the raw image is from what the draw says of the purified one.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import torch
from torch import Tensor

from sdk.suspicion import suspicion as disagreement
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.gradient import pgd
from trainer.robustness.attacks.losses import margin
from trainer.robustness.defences.judges import EngineJudge, Key, TorchJudge
from trainer.robustness.defences.surrogates import Model
from trainer.robustness.evaluation.report import Roc, Suspicion
from trainer.robustness.evaluation.statistics import roc_area, roc_at

RATES = torch.arange(101, dtype=torch.float64) / 100  # of false positives, at which the ROC is kept


def measure(
    judge: EngineJudge | TorchJudge, clean: Tensor, attacked: Mapping[str, Tensor], *, draws: int, key: Key
) -> Suspicion:
    """The ROC and its area, clean images against each set of ``attacked`` ones, (N, 3, H, W) all.

    Both are means over the draws of a single draw's, which is what a device reports.
    """
    negatives = suspicion(judge, clean, draws=draws, key=key)
    area, roc = {}, {}
    for name, images in attacked.items():
        positives = suspicion(judge, images, draws=draws, key=key)
        area[name] = fmean(map(roc_area, negatives, positives))
        reached = [roc_at(RATES, *scores) for scores in zip(negatives, positives, strict=True)]
        roc[name] = Roc(tuple(RATES.tolist()), tuple(torch.stack(reached).mean(0).tolist()))
    return Suspicion(len(clean), area, roc)


def suspicion(judge: EngineJudge | TorchJudge, images: Tensor, *, draws: int, key: Key) -> Tensor:
    """The scores in [0, 1] of every image under each of ``draws`` draws: (draws, B)."""
    purified = judge.probabilities(images, draws=draws, key=key)  # (draws, B, n_classes)
    drawn = judge.drawn_classifiers(len(images), draws=draws, key=key)  # (draws, B)
    raw = judge.raw_probabilities(images)[drawn, torch.arange(len(images))]  # (draws, B, n_classes)
    return torch.from_numpy(disagreement(raw.numpy(), purified[None].numpy()))


def evade_both(
    defended: Model,
    raw: Model,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """PGD on the margin of one wrong class, for the defence and for the bare classifiers at once, so that
    they agree.

    The class is the defence's second guess of the clean image.
    """
    with torch.no_grad():
        guesses = defended(images, generator)
    target = guesses.scatter(1, labels[:, None], -torch.inf).argmax(1)

    def towards(logits: Tensor, labels: Tensor) -> Tensor:
        return -margin(logits, target)

    return pgd(
        _Both(defended, raw),
        images,
        labels,
        ball=ball,
        steps=steps,
        generator=generator,
        falling=True,
        keep_best=True,
        loss=towards,
    )


class _Both:
    """The mean of two models' log-probabilities: high for a class only where both give it a chance."""

    def __init__(self, first: Model, second: Model) -> None:
        self.models = (first, second)
        self.n_classes = first.n_classes

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return torch.stack([model(images, generator) for model in self.models]).mean(0)
