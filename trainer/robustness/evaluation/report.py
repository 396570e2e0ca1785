"""The evaluation's outcome as data, schema'd for machines; ``markdown`` and ``plots`` make it readable."""

from __future__ import annotations

import msgspec

from trainer.robustness.evaluation.statistics import Counts, Difference, Figure

SCHEMA = 1


class Rung(msgspec.Struct, frozen=True):
    """One attack and what is left after it; ``attack`` says how it was made."""

    name: str
    attack: str
    counts: Counts
    seconds: float


class Baseline(msgspec.Struct, frozen=True):
    """What the same classifiers do behind another front, or none: expected accuracy by attack."""

    name: str
    figures: dict[str, Figure]


class Check(msgspec.Struct, frozen=True):
    """One sign of a weak attack; ``passed`` is None where there is nothing to pass."""

    name: str
    passed: bool | None
    found: str
    expected: str


class AtEps(msgspec.Struct, frozen=True):
    """Expected accuracy under the full-gradient attack with this eps."""

    eps: float
    figure: Figure


class Roc(msgspec.Struct, frozen=True):
    """Shares of clean images, and of attacked ones, that a threshold on suspicion takes for attacked, both
    rising."""

    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]


class Suspicion(msgspec.Struct, frozen=True):
    """How well suspicion tells attacked images from clean ones, by attack.

    Attributes:
        images: of each kind.
        area: under the ROC: 1 tells them apart, 0.5 knows nothing.
        roc: the curve itself; empty in a report of an older version.
    """

    images: int
    area: dict[str, float]
    roc: dict[str, Roc] = {}


class Accepted(msgspec.Struct, frozen=True):
    """Shares in [0, 1]: of answers that a threshold on the score accepts, and of errors among these."""

    coverage: float
    risk: float


class AtThreshold(msgspec.Struct, frozen=True):
    """What a threshold on the score accepts, by attack; ``clean`` is one of them."""

    threshold: float
    accepted: dict[str, Accepted]


class Confidence(msgspec.Struct, frozen=True):
    """Whether the score is a probability, and what refusing low scores gains.

    Attributes:
        images: of each kind.
        error: expected calibration error in [0, 1], by attack.
        thresholds: by rising coverage of clean images.
    """

    images: int
    error: dict[str, float]
    thresholds: tuple[AtThreshold, ...]


class Mixture(msgspec.Struct, frozen=True):
    """What drawing at random gains over its own members, both measured on the twin.

    Attributes:
        members: fixed sub-models, each with a random input that never changes.
        mixed: expected accuracy over fresh draws.
        alone: mean over the members of each one's accuracy. Both under the strongest on each image of the
            same attacks, by the full gradient: one on the mixture's mean, one on each member.
        gain: mixed less alone, paired; theory says that it can't be negative against a perfect attack.
    """

    members: int
    mixed: Figure
    alone: Figure
    gain: Difference


class Comparison(msgspec.Struct, frozen=True):
    """Another defence on the same images, and by rung how much more the first one keeps, paired.

    ``worst`` is None where nothing was attacked; ``remarks`` say what was left out of its ladder, and what
    judged it where that is something else.
    """

    target: str
    worst: Rung | None
    rungs: tuple[Rung, ...]
    gain: dict[str, Difference]
    remarks: tuple[str, ...] = ()


class Engines(msgspec.Struct, frozen=True):
    """The engines of a bundle that judged: which runtime, its version, and their precision."""

    backend: str
    version: str
    precision: str


class Report(msgspec.Struct, frozen=True):
    """Everything an evaluation found.

    Attributes:
        target, digest: the defence's name, and the sha256 of its bundle.json or checkpoint.
        judged_by: what said what each image is taken for.
        attacked: what the attacks differentiated or queried.
        norm, eps: of the attacks, in the images' units; eps is 0 where nothing was attacked.
        worst: the figure to quote: per image the strongest attack, chosen on other draws than it is scored
            on; None where nothing was attacked.
        seconds: spent, over all runs if it was resumed.
        average: of the single attacks' expected accuracies, as some papers report; it flatters, so don't
            quote it.
        by_eps: the full-gradient attack on the check images, by rising eps.
        mixture: on the check images, what randomness adds.
        remarks: what was left out, and why.
        engines: that judged; None where a checkpoint judged itself, and in a report of an older version.
    """

    target: str
    digest: str
    judged_by: str
    attacked: str
    budget: str
    norm: str
    eps: float
    seed: int
    images: int
    worst: Rung | None
    rungs: tuple[Rung, ...]
    baselines: tuple[Baseline, ...]
    seconds: float
    average: float | None = None
    by_eps: tuple[AtEps, ...] = ()
    checks: tuple[Check, ...] = ()
    mixture: Mixture | None = None
    suspicion: Suspicion | None = None
    comparison: Comparison | None = None
    remarks: tuple[str, ...] = ()
    schema: int = SCHEMA
    engines: Engines | None = None
    confidence: Confidence | None = None

    @property
    def failed_checks(self) -> list[Check]:
        return [check for check in self.checks if check.passed is False]


def to_json(report: Report) -> bytes:
    """As indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def from_json(text: bytes) -> Report:
    """Read what ``to_json`` wrote; msgspec's errors name the field."""
    return msgspec.json.decode(text, type=Report)
