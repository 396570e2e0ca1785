"""Result of one frame: label, score, probabilities, purified image, draws and timings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdk.arrays import FloatImage, Pixels
from sdk.draw import Draw
from sdk.errors import UsageError
from sdk.sources.roi import Roi

UNSURE = "unsure"
"""The label of a frame whose best score is below the Purifier's ``min_score``."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds that a frame spent in each stage.

    Purify and classify are sums over the votes, and classify includes the raw image's for suspicion; both
    are 0 for a skipped frame, whose total still counts.
    """

    preprocess_ms: float
    draw_ms: float
    purify_ms: float
    classify_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value for == to return
class Result:
    """The decision on one frame, or on one region of it.

    Attributes:
        label: the most probable class; ``UNSURE`` if its probability is below the Purifier's ``min_score``;
            None if the frame was skipped.
        score: the most probable class's probability in [0, 1]; None if the frame was skipped.
        probabilities: float32 ``(n_classes,)`` in the order of the bundle's labels, the mean over the votes
            of each one's softmax; None if the frame was skipped.
        draws: one per vote; empty if the Purifier hides them.
        timings: milliseconds per stage.
        seeded: True if the draws came from a seed and so protect nothing.
        error: why the frame was skipped; None if it was not.
        frame_index, source: where the frame came from, if the caller said so.
        suspicion: in [0, 1], how far the raw and the purified image's decisions, and the votes', disagree;
            see ``sdk.suspicion``. None if the Purifier wasn't asked for it, or the frame was skipped.
        accepted: whether ``label`` is a decision: False for a skipped frame and for an ``UNSURE`` one.
        region: the part of the frame that was purified; None if that is all of it.
    """

    label: str | None
    score: float | None
    probabilities: FloatImage | None
    draws: tuple[Draw, ...]
    timings: Timings
    seeded: bool
    error: str | None = None
    frame_index: int | None = None
    source: str | None = None
    suspicion: float | None = None
    _purified: FloatImage | None = None  # (3, H, W) RGB in [0, 1]
    accepted: bool = True
    region: Roi | None = None

    @property
    def draw(self) -> Draw:
        """The first vote's draw.

        Raises:
            UsageError: the Purifier hides its draws.
        """
        if not self.draws:
            raise UsageError(
                "the draws of this result are hidden", hint="load the Purifier without hide_draw"
            )
        return self.draws[0]

    @property
    def purified(self) -> Pixels | None:
        """The first vote's purified image, HxWx3 uint8 BGR in the engines' size; None if the frame was
        skipped, or the Purifier was told not to keep it.

        Converted on each access, so that a frame whose picture nobody looks at pays nothing.
        """
        if self._purified is None:
            return None
        bgr = self._purified[::-1].transpose(1, 2, 0)  # (H, W, 3)
        return np.ascontiguousarray((bgr.clip(0, 1) * 255).round().astype(np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class Undefended:
    """The classifiers' decision on a frame that was not purified: a comparison, which protects nothing.

    Attributes:
        label, score: the most probable class and its probability in [0, 1].
        probabilities: float32 ``(n_classes,)``, the mean over all classifiers of each one's softmax.
    """

    label: str
    score: float
    probabilities: FloatImage


def skipped(error: str, *, frame_index: int | None = None, source: str | None = None) -> Result:
    """The Result of a frame that no engine saw, such as a picture that can't be read."""
    return Result(
        label=None,
        score=None,
        probabilities=None,
        draws=(),
        timings=Timings(preprocess_ms=0.0, draw_ms=0.0, purify_ms=0.0, classify_ms=0.0, total_ms=0.0),
        seeded=False,
        error=error,
        frame_index=frame_index,
        source=source,
        accepted=False,
    )
