"""Suspicion: distance between the decisions on the raw image and on the purified one.

A purifier hardly changes a clean image's decision, so a large change is suspicious. It is a diagnostic and
not a defence: an attacker who knows of it can keep it low. ``edge-train evaluate`` measures how well it then
tells attacks from clean images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[Any]  # of floats


def suspicion(raw: Probabilities, votes: Probabilities) -> Probabilities:
    """The mean, over the votes, of each one's total variation distance from ``raw``.

    Votes that disagree with each other can't all agree with ``raw``, so they raise it as well.

    Args:
        raw: a classifier's probabilities for the image as it is, ``(..., n_classes)``.
        votes: each vote's probabilities for the image that it purified, ``(n_votes, ..., n_classes)``.

    Returns:
        ``(...)``, in [0, 1]: 0 where all agree, 1 where no vote shares anything with ``raw``.
    """
    distances: Probabilities = np.abs(votes - raw).sum(axis=-1) / 2  # (n_votes, ...)
    mean: Probabilities = distances.mean(axis=0)
    return mean.clip(0, 1)
