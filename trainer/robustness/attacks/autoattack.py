"""AutoAttack (Croce & Hein, ICML 2020) in its standard form, by the package ``pyautoattack``, on a frozen
model.

Its form for random defences filters on a single stochastic answer, so a random defence is frozen first: many
draws, always the same ones, averaged. What it finds is then scored under fresh draws.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from sdk.errors import EdgePurifyError, UsageError
from trainer.robustness.attacks.ball import Ball, check_images
from trainer.robustness.defences.surrogates import Frozen, Model

MIN_CLASSES = 4  # the targeted DLR loss compares the four highest logits
NORMS = {"linf": "Linf", "l2": "L2"}


def autoattack(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    generator: torch.Generator,
    batch: int = 64,
    queries: int = 5000,
    start: Tensor | None = None,
) -> Tensor:
    """APGD-CE, targeted APGD-DLR, targeted FAB and Square, each on what the ones before left standing.

    Args:
        batch: images attacked at a time.
        queries: of Square; 5,000 in the standard form.
        start: (B, 3, H, W), what to return where nothing was found; the images where it is None. The attack
            itself always begins at the images.

    Returns:
        (B, 3, H, W) inside the ball and [0, 1].

    Raises:
        UsageError: the model has too few classes, or images or labels don't fit it.
        EdgePurifyError: the package is not installed.
    """
    check_images(images, labels, model.n_classes)
    if model.n_classes < MIN_CLASSES:
        raise UsageError(f"AutoAttack: expected at least {MIN_CLASSES} classes, got {model.n_classes}")
    try:
        from pyautoattack import AutoAttack
    except ImportError:
        raise EdgePurifyError(
            "AutoAttack: pyautoattack is not installed", hint="pip install 'edge-purify[train]'"
        ) from None
    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # it reports each batch
    seed = int(torch.randint(2**31, (), generator=generator))
    frozen = _Module(Frozen(model, seed))
    attack = AutoAttack(
        frozen, norm=NORMS[ball.norm], eps=ball.eps, seed=seed, version="standard", device="cpu"
    )
    attack.verbose = False
    attack.square.n_queries = queries
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, model.n_classes - 1)
    with torch.random.fork_rng():  # it seeds torch's global generator
        found, _ = attack.run_standard_evaluation(images, labels, batch_size=batch)
    found = ball.project(found, images)
    if start is None:
        return found
    unchanged = (found == images).flatten(1).all(1)
    return torch.where(unchanged[:, None, None, None], start, found)


class _Module(torch.nn.Module):
    """A frozen model as the package wants it."""

    def __init__(self, model: Frozen) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)
