"""A measured deviation of one engine from what was expected of it, and the gate that holds it to a bound."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdk.errors import GateError

BOUND = 1e-4  # on pixels in [0, 1] and on logits of a few units: some hundred times float32's rounding


@dataclass(frozen=True)
class Deviation:
    """The largest absolute difference of an engine's ``output`` from ``against``, over ``n_draws`` draws."""

    engine: str
    output: str
    against: str
    max_abs: float
    n_draws: int


def gate(deviations: Iterable[Deviation], bound: float = BOUND) -> None:
    """Hold every deviation to ``bound``.

    Raises:
        GateError: naming the first engine beyond it (or whose output isn't a number).
    """
    for found in deviations:
        if not found.max_abs <= bound:
            raise GateError(
                f"{found.engine}: its {found.output} differs from the {found.against} by {found.max_abs:.1e} "
                f"over {found.n_draws} draws, expected at most {bound:.0e}; "
                "don't use this bundle, export it anew"
            )


def max_abs(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest absolute difference; infinite where the shapes differ."""
    return float(np.abs(got - expected).max()) if got.shape == expected.shape else float("inf")
