"""The evaluation's outcome as data, schema'd for machines; ``markdown`` and ``plots`` make it readable."""

from __future__ import annotations

import msgspec

from trainer.robustness.statistics import Counts, Figure

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


class Suspicion(msgspec.Struct, frozen=True):
    """Area under suspicion's ROC against clean images, by attack: 1 tells them apart, 0.5 knows nothing."""

    images: int
    area: dict[str, float]


class Comparison(msgspec.Struct, frozen=True):
    """Another defence on the same images, and by rung how much more this one keeps, in points."""

    target: str
    worst: Rung
    rungs: tuple[Rung, ...]
    gain: dict[str, float]


class Report(msgspec.Struct, frozen=True):
    """Everything an evaluation found.

    Attributes:
        target, digest: the defence's name, and the sha256 of its bundle.json or checkpoint.
        judged_by: what said what each image is taken for.
        attacked: what the attacks differentiated or queried.
        norm, eps: of the attacks, in the images' units; eps is 0 where nothing was attacked.
        worst: the figure to quote: per image the strongest attack, chosen on other draws than it is scored
        on.
        average: of the single attacks' expected accuracies, as some papers report; it flatters, so don't
        quote it.
        by_eps: the full-gradient attack on the check images, by rising eps.
        remarks: what was left out, and why.
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
    worst: Rung
    rungs: tuple[Rung, ...]
    baselines: tuple[Baseline, ...]
    seconds: float
    average: float | None = None
    by_eps: tuple[AtEps, ...] = ()
    checks: tuple[Check, ...] = ()
    suspicion: Suspicion | None = None
    comparison: Comparison | None = None
    remarks: tuple[str, ...] = ()
    schema: int = SCHEMA

    @property
    def failed_checks(self) -> list[Check]:
        return [check for check in self.checks if check.passed is False]


def to_json(report: Report) -> bytes:
    """As indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def from_json(text: bytes) -> Report:
    """Read what ``to_json`` wrote; msgspec's errors name the field."""
    return msgspec.json.decode(text, type=Report)
