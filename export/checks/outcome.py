"""What a verification found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from export.checks.accuracy import Drop
from export.checks.gate import Finding
from sdk.bundle.deviation import Deviation


@dataclass(frozen=True)
class Verification:
    """What was compared, through which backend.

    Attributes:
        backend: its name and version.
        deviations: of every engine in every precision.
        without_twin: why nothing was compared with the twin, if so.
        drops: accuracy lost, by precision and set of images; empty where no labelled images were given.
    """

    backend: str
    deviations: tuple[Deviation, ...]
    without_twin: str | None = None
    drops: tuple[Drop, ...] = ()


def findings(found: Verification) -> Iterator[Finding]:
    """Everything that is held to a bound, in order."""
    yield from found.deviations
    yield from found.drops
