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
from trainer.robustness.defences.judges import DrawingJudge, Key
from trainer.robustness.evaluation.report import Roc, Suspicion
from trainer.robustness.evaluation.statistics import roc_area, roc_at

RATES = torch.arange(101, dtype=torch.float64) / 100  # of false positives, at which the ROC is kept


def measure(
    judge: DrawingJudge, clean: Tensor, attacked: Mapping[str, Tensor], *, draws: int, key: Key
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


def suspicion(judge: DrawingJudge, images: Tensor, *, draws: int, key: Key) -> Tensor:
    """The scores in [0, 1] of every image under each of ``draws`` draws: (draws, B)."""
    purified = judge.probabilities(images, draws=draws, key=key)  # (draws, B, n_classes)
    drawn = judge.drawn_classifiers(len(images), draws=draws, key=key)  # (draws, B)
    raw = judge.raw_probabilities(images)[drawn, torch.arange(len(images))]  # (draws, B, n_classes)
    return torch.from_numpy(disagreement(raw.numpy(), purified[None].numpy()))
