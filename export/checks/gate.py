"""The gate: everything measured of an engine is held to its bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from sdk.bundle import Precision
from sdk.choices import GraphKind
from sdk.errors import GateError


class Finding(Protocol):
    """Something measured of an engine that has a bound."""

    @property
    def engine(self) -> str: ...

    @property
    def precision(self) -> Precision: ...

    @property
    def kind(self) -> GraphKind: ...

    @property
    def complaint(self) -> str | None: ...


def gate(found: Iterable[Finding], explain: Callable[[Finding], str] = lambda finding: "") -> None:
    """Hold everything found to its bound.

    Args:
        found: deviations, or drops of accuracy.
        explain: what more there is to say of one that is beyond its bound.

    Raises:
        GateError: naming the first engine beyond it (or whose output isn't a number).
    """
    for finding in found:
        if finding.complaint:
            lower = finding.precision != "fp32"
            hint = (
                f"leave {finding.precision} out" if lower else "report it with the file that --report writes"
            )
            raise GateError(f"{finding.complaint}{explain(finding)}", hint=f"don't use this bundle, {hint}")
