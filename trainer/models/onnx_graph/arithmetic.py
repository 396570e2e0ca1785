"""Element-wise operators, comparisons and reductions of ONNX in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

Axes = Sequence[int] | int | None


def divide(x: Tensor, y: Tensor) -> Tensor:
    """Integers are truncated towards zero."""
    both_integers = not x.is_floating_point() and not y.is_floating_point()
    return torch.div(x, y, rounding_mode="trunc" if both_integers else None)


def modulo(x: Tensor, y: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


def power(x: Tensor, exponent: Tensor | float) -> Tensor:
    return x.pow(exponent).to(x.dtype)


def clip(
    x: Tensor,
    low: float | None = None,
    high: float | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Tensor:
    """Bounds are inputs, before opset 11 attributes."""
    lowest, highest = low if low is not None else min, high if high is not None else max
    return x if lowest is None and highest is None else x.clamp(lowest, highest)


def largest(*values: Tensor) -> Tensor:
    """A bound that is one number passes the gradient to what reaches it, as ``clamp`` does."""
    return reduce(lambda x, y: _bounded(x, y, torch.maximum, "min"), values)


def smallest(*values: Tensor) -> Tensor:
    return reduce(lambda x, y: _bounded(x, y, torch.minimum, "max"), values)


def _bounded(x: Tensor, y: Tensor, pairwise: Callable[..., Tensor], bound: str) -> Tensor:
    for value, other in ((x, y), (y, x)):
        if other.ndim == 0 and not other.requires_grad:
            return torch.clamp(value, **{bound: other})
    return pairwise(x, y)


def total(*values: Tensor) -> Tensor:
    return reduce(torch.add, values)


def average(*values: Tensor) -> Tensor:
    return total(*values) / len(values)


def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


def gelu(x: Tensor, *, approximate: bytes = b"none") -> Tensor:
    return F.gelu(x, approximate=approximate.decode())


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if beta == 0.5 and abs(alpha - 1 / 6) < 1e-6:
        return F.hardsigmoid(x)
    return (alpha * x + beta).clamp(0, 1)


def selu(x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, slope * x)


def cumulative_sum(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    values = x.flip(axis) if reverse else x
    sums = values.cumsum(axis)
    sums = sums - values if exclusive else sums
    return sums.flip(axis) if reverse else sums


def _normalized_by_softmax(function: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, *, opset: int, axis: int | None = None) -> Tensor:
        if opset >= 13:
            return function(x, -1 if axis is None else axis)
        first = (1 if axis is None else axis) % x.ndim  # over all axes from this one on
        return function(x.flatten(first), -1).view(x.shape)

    return run


softmax = _normalized_by_softmax(torch.softmax)
log_softmax = _normalized_by_softmax(torch.log_softmax)


def reduction(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[..., Tensor]:
    """A reduction whose axes are an input, or an attribute in older opsets; over all axes without."""

    def run(
        x: Tensor,
        places: Axes = None,
        *,
        axes: Axes = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        chosen = _axes(places if places is not None else axes)
        if not chosen and noop_with_empty_axes:
            return x
        return function(x, chosen or tuple(range(x.ndim)), bool(keepdims))

    return run


def _axes(axes: Axes) -> tuple[int, ...]:
    if axes is None:
        return ()
    return (axes,) if isinstance(axes, int) else tuple(axes)


def _product(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdims)
    return x


reduce_mean = reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep))
reduce_sum = reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep))
reduce_max = reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep))
reduce_min = reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep))
reduce_product = reduction(_product)
reduce_l1 = reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep))
reduce_l2 = reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep))
reduce_log_sum = reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep).log())
reduce_log_sum_exp = reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep))
reduce_sum_square = reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep))


def normalize_lp(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / norm
