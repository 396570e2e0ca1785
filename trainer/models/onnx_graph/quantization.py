"""Rounding to 8-bit codes and back, in torch, with a straight-through gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CODES = {torch.int8: (-128, 127), torch.uint8: (0, 255)}  # that QuantizeLinear saturates at, by type


class FakeQuantize(torch.autograd.Function):
    """QuantizeLinear and DequantizeLinear in one: to the nearest 8-bit code's value, ties to even.

    ``low`` and ``high`` are the codes that values saturate at, counted from the code of zero.

    Backward it is straight-through (Bengio et al., arXiv 1308.3432): the rounding counts as the identity, and
    a value that saturates passes no gradient.
    """

    @staticmethod
    def forward(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        # divided as the engine does: times the reciprocal, ties fall to other codes
        return (x / scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
        x, scale, low, high = inputs
        ctx.save_for_backward(x)
        ctx.passes = (low - 0.5) * float(scale), (high + 0.5) * float(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, x, *ctx.passes), None, None, None

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int, None, None, None], x: Tensor, scale: Tensor, low: int, high: int
    ) -> tuple[Tensor, int]:
        return FakeQuantize.apply(x, scale, low, high), in_dims[0]  # type: ignore[no-untyped-call]


def fake_quantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """``x`` to the values of int8 or uint8 codes by one scale, straight-through."""
    if zero is None or zero.dtype not in CODES or scale.ndim or zero.ndim:
        raise ValueError("QuantizeLinear: expected int8 or uint8 codes by one scale")
    lowest, highest = CODES[zero.dtype]
    result: Tensor = FakeQuantize.apply(x, scale, lowest - int(zero), highest - int(zero))  # type: ignore[no-untyped-call]
    return result


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """The values of stored codes, by one scale, or by one for each place along ``axis``."""
    _refuse_offset(zero)
    if scale.ndim:
        scale = scale.view([-1 if place == axis % codes.ndim else 1 for place in range(codes.ndim)])
    return codes.float() * scale


def _refuse_offset(zero: Tensor | None) -> None:
    if zero is not None and zero.any():
        raise ValueError(f"quantization: expected a zero point of 0, got {zero.tolist()}")
