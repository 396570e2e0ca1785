"""Deviation of an engine's output from what is expected of it, and its bound by precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdk.arrays import FloatImage
from sdk.choices import GraphKind, Precision

BOUND = 1e-4  # on pixels in [0, 1] and on logits of a few units: some hundred times float32's rounding


@dataclass(frozen=True)
class Bound:
    """The most that an output may be off, at any place and on average, and the least top-1 agreement."""

    max_abs: float
    mean_abs: float
    top1: float


# an external classifier multiplies the rounding of the purifier before it by whatever its weights amount to,
# so its FP32 logits are held to the same decisions, and to a share of their standard deviation
AMPLIFIED = Bound(0.02, 0.002, 1.0)

# pixels in [0, 1]; logits below FP32 by their standard deviation, since their scale is the model's own
BOUNDS = {
    ("fp32", "purified image"): Bound(BOUND, BOUND, 0.0),
    ("fp32", "logits"): Bound(BOUND, BOUND, 0.0),
    ("fp16", "purified image"): Bound(0.02, 0.002, 0.98),
    ("fp16", "logits"): Bound(0.1, 0.01, 0.98),
    ("int8", "purified image"): Bound(0.25, 0.02, 0.9),
    ("int8", "logits"): Bound(0.75, 0.1, 0.9),
}


@dataclass(frozen=True)
class Deviation:
    """How far an engine's ``output`` is off ``against`` over ``n_draws`` draws.

    Attributes:
        engine: its id.
        output: "purified image" or "logits".
        against: what it was compared with.
        max_abs, mean_abs: the largest and the mean absolute difference, in units of ``unit``.
        n_draws: each with an image of its own.
        precision: of the engine.
        unit: 1, or the standard deviation of the logits expected.
        top1: share of the draws in which the most likely class is the same; None where no class was asked
            for.
        amplified: whether the engine is an external classifier's in FP32, see ``AMPLIFIED``.
        kind: of the ONNX graph that ran; "gpu" too where one graph serves all.
    """

    engine: str
    output: str
    against: str
    max_abs: float
    n_draws: int
    precision: Precision = "fp32"
    mean_abs: float = 0.0
    unit: float = 1.0
    top1: float | None = None
    amplified: bool = False
    kind: GraphKind = "gpu"

    @property
    def bound(self) -> Bound:
        return AMPLIFIED if self.amplified else BOUNDS[self.precision, self.output]

    @property
    def complaint(self) -> str | None:
        """What is wrong, in one line; None if the deviation is within its bound. NaN is wrong."""
        bound = self.bound
        wrong = []
        if not self.max_abs <= bound.max_abs:
            wrong.append(
                f"by {self.max_abs:.1e} over {self.n_draws} draws, expected at most {bound.max_abs:.0e}"
            )
        elif not self.mean_abs <= bound.mean_abs:
            wrong.append(
                f"by {self.mean_abs:.1e} on average over {self.n_draws} draws, "
                f"expected at most {bound.mean_abs:.0e}"
            )
        if self.top1 is not None and not self.top1 >= bound.top1:
            wrong.append(
                f"in the most likely class of {1 - self.top1:.1%} of {self.n_draws} draws, "
                f"expected at most {1 - bound.top1:.0%}"
            )
        if not wrong:
            return None
        engine = self.engine if self.precision == "fp32" else f"{self.engine} in {self.precision}"
        engine += " for CPUs" if self.kind == "cpu" else ""
        return f"{engine}: its {self.output} differs from the {self.against} {' and '.join(wrong)}"


def deviation(
    engine: str,
    output: str,
    against: str,
    got: FloatImage,
    expected: FloatImage,
    precision: Precision = "fp32",
    *,
    top1: float | None = None,
    relative: bool = False,
) -> Deviation:
    """Compare ``got`` with ``expected``, one row a draw; if the shapes differ, the difference is infinite.

    Logits are compared in units of their standard deviation below FP32, or where ``relative`` says so.
    """
    count = len(expected)
    if got.shape != expected.shape:
        return Deviation(engine, output, against, float("inf"), count, precision, float("inf"))
    is_relative = output == "logits" and (relative or precision != "fp32")
    is_amplified = output == "logits" and relative and precision == "fp32"
    unit = (float(expected.std()) or 1.0) if is_relative else 1.0
    off = np.abs(got - expected) / unit
    if is_amplified and top1 is None:
        top1 = _same_decisions(got, expected, AMPLIFIED.max_abs * unit)
    return Deviation(
        engine=engine,
        output=output,
        against=against,
        max_abs=float(off.max()),
        n_draws=count,
        precision=precision,
        mean_abs=float(off.mean()),
        unit=unit,
        top1=top1,
        amplified=is_amplified,
    )


def _same_decisions(got: FloatImage, expected: FloatImage, tie: float) -> float:
    """Share of rows whose most likely class is the expected one, or as likely up to ``tie``."""
    chosen = np.take_along_axis(expected, got.argmax(-1)[:, None], -1)[:, 0]
    return float((expected.max(-1) - chosen <= tie).mean())
