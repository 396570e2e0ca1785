"""The accuracy that a lower precision costs, paired: the same images and draws through both engines.

A drop is judged by its one-sided 95 % upper bound, so that too few images can't pass what many would not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.inputs.labelled import Labelled
from sdk.backends.interface import Backend
from sdk.bundle import Bundle, Precision
from sdk.choices import GraphKind
from sdk.draw import Draw, Drawer

MOST_POINTS: dict[str, float] = {"fp16": 1.5, "int8": 2.5}
Z95 = 1.645  # of the standard normal, one-sided 95 %
SEED = 2
DRAWS = 2  # an image

Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Drop:
    """What a precision costs on one set of images, in points of accuracy.

    Attributes:
        precision: judged against FP32.
        says: the images.
        n_images, n_draws: how many, and draws of each.
        fp32, accuracy: percent, through the FP32 engines and through these.
        drop, upper: points lost, and the upper 95 % bound of that.
        engine: the one in whose draws the most was lost.
        kind: of the ONNX graphs that ran; "gpu" too where one graph serves all.
    """

    precision: Precision
    says: str
    n_images: int
    n_draws: int
    fp32: float
    accuracy: float
    drop: float
    upper: float
    engine: str
    kind: GraphKind = "gpu"

    @property
    def complaint(self) -> str | None:
        """What is wrong, in one line; None if the drop is within its bound."""
        most = MOST_POINTS[self.precision]
        if self.upper <= most:
            return None
        what = f"{self.precision}{' for CPUs' if self.kind == 'cpu' else ''}"
        if self.drop < most:
            return (
                f"{what}: too few pictures to tell: {self.n_images} {self.says} images bound the drop of "
                f"accuracy by {self.upper:.2f} points (95 %), expected at most {most}; "
                f"give at least {self.enough}"
            )
        return (
            f"{self.engine} in {what}: accuracy on {self.n_images} {self.says} images falls from "
            f"{self.fp32:.1f} to {self.accuracy:.1f} %, by up to {self.upper:.2f} points (95 % bound), "
            f"expected at most {most}, the draws of this engine having lost the most"
        )

    @property
    def enough(self) -> int:
        """How many images would pass if as small a drop were found on them; 0 where none would."""
        room = MOST_POINTS[self.precision] - self.drop
        if room <= 0:
            return 0
        scale = (100 * Z95) ** 2
        spread = ((self.upper - self.drop) * self.n_images) ** 2 / scale - 1  # of all images, see upper_bound
        each = max(spread, 0.0) / self.n_images
        root = math.sqrt((scale * each) ** 2 + 4 * room**2 * scale)
        return math.ceil((scale * each + root) / (2 * room**2))


class PairedAccuracy:
    """Labelled images through the FP32 engines, for other engines to be compared under the same draws."""

    def __init__(self, bundle: Bundle, reference: Backend, labelled: Labelled) -> None:
        self.manifest, self.labelled = bundle.manifest, labelled
        self.draws = Drawer(bundle.manifest, seed=SEED).draw(DRAWS * len(labelled.images))
        self.expected = _right(reference, labelled, self.draws)

    def drop(self, candidate: Backend) -> Drop:
        """What the engines of ``candidate`` lose."""
        found = _right(candidate, self.labelled, self.draws)
        lost = self.expected.astype(np.float64) - found  # (DRAWS * N,)
        return Drop(
            precision=candidate.precision,
            says=self.labelled.says,
            n_images=len(self.labelled.images),
            n_draws=DRAWS,
            fp32=100 * float(self.expected.mean()),
            accuracy=100 * float(found.mean()),
            drop=100 * float(lost.mean()),
            upper=100 * upper_bound(lost.reshape(-1, DRAWS).mean(axis=1)),
            engine=self._worst(lost),
        )

    def _worst(self, lost: npt.NDArray[np.float64]) -> str:
        """The engine in whose draws the most was lost, on average."""
        roles = (("purifier", self.manifest.purifiers), ("classifier", self.manifest.classifiers))
        by_engine = {
            engine.id: float(lost[mine].mean())
            for role, engines in roles
            for place, engine in enumerate(engines)
            if any(mine := [getattr(draw, role) == place for draw in self.draws])
        }
        return max(by_engine, key=lambda engine: by_engine[engine])


def upper_bound(drops: npt.NDArray[np.float64]) -> float:
    """One-sided 95 % upper bound of the mean of per-image drops, each in [-1, 1].

    By a normal approximation with one image gained and one lost at half weight added (Agresti and Min,
    'Simple improved confidence intervals for comparing matched proportions', Statistics in Medicine 24,
    2005): without these, images that agree by chance would prove a bound of zero.
    """
    count = len(drops) + 2
    mean = float(drops.sum()) / count
    variance = (float(np.square(drops).sum()) + 1) / count - mean**2
    return mean + Z95 * math.sqrt(variance / count)


def _right(backend: Backend, labelled: Labelled, draws: tuple[Draw, ...]) -> Right:
    """Whether each draw is right: (DRAWS * N,), the draws of an image side by side."""
    right = np.zeros(len(draws), np.bool_)
    for place, draw in enumerate(draws):
        image = labelled.images[place // DRAWS][None]
        purified = backend.purify(draw.purifier, image, draw.random_inputs)
        right[place] = backend.classify(draw.classifier, purified).argmax() == labelled.labels[place // DRAWS]
    return right
