"""Convolutions, pooling, norms, products and attention of ONNX in torch, for one to three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Ints = Sequence[int]

CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
MAX_POOL: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: Ints = (),
    strides: Ints = (),
    dilations: Ints = (),
    group: int = 1,
    auto_pad: bytes = b"NOTSET",
    kernel_shape: Ints = (),
) -> Tensor:
    kernel = weight.shape[2:]
    ones = [1] * len(kernel)
    strides, dilations = strides or ones, dilations or ones
    begins, ends = padding(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
    if begins != ends:
        x, begins = F.pad(x, _for_pad(begins, ends)), [0] * len(kernel)
    return CONV[len(kernel)](x, weight, bias, strides, begins, dilations, group)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: Ints = (),
    strides: Ints = (),
    dilations: Ints = (),
    output_padding: Ints = (),
    output_shape: Ints = (),
    group: int = 1,
    auto_pad: bytes = b"NOTSET",
    kernel_shape: Ints = (),
) -> Tensor:
    kernel, sizes = weight.shape[2:], x.shape[2:]
    n = len(kernel)
    strides, dilations, more = strides or [1] * n, dilations or [1] * n, list(output_padding or [0] * n)
    full = [
        (size - 1) * s + d * (k - 1) + 1 + extra
        for size, k, s, d, extra in zip(sizes, kernel, strides, dilations, more, strict=True)
    ]
    if auto_pad.startswith(b"SAME") and not output_shape:
        output_shape = [size * s for size, s in zip(sizes, strides, strict=True)]
    if output_shape:
        cut = [have - want for have, want in zip(full, output_shape[-n:], strict=True)]
        smaller, larger = [each // 2 for each in cut], [each - each // 2 for each in cut]
        begins, ends = (smaller, larger) if auto_pad == b"SAME_UPPER" else (larger, smaller)
    else:
        begins, ends = list(pads[:n]) or [0] * n, list(pads[n:]) or [0] * n
    transpose = CONV_TRANSPOSE[n]
    if begins == ends and min(begins) >= 0:
        return transpose(x, weight, bias, strides, begins, more, group, dilations)
    whole = transpose(x, weight, bias, strides, 0, more, group, dilations)
    return F.pad(whole, _for_pad([-cut for cut in begins], [-cut for cut in ends]))


def padding(
    sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints, auto_pad: bytes
) -> tuple[list[int], list[int]]:
    """How much is added before and after each dimension."""
    n = len(kernel)
    if auto_pad in (b"NOTSET", b""):
        return list(pads[:n]) or [0] * n, list(pads[n:]) or [0] * n
    if auto_pad == b"VALID":
        return [0] * n, [0] * n
    missing = [
        max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    smaller, larger = [each // 2 for each in missing], [each - each // 2 for each in missing]
    return (smaller, larger) if auto_pad == b"SAME_UPPER" else (larger, smaller)


def _for_pad(begins: Ints, ends: Ints) -> list[int]:
    """``F.pad`` counts from the last dimension."""
    return [amount for pair in zip(reversed(begins), reversed(ends), strict=True) for amount in pair]


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    pads: Ints = (),
    strides: Ints = (),
    dilations: Ints = (),
    ceil_mode: int = 0,
    auto_pad: bytes = b"NOTSET",
    storage_order: int = 0,
) -> Tensor:
    ones = [1] * len(kernel_shape)
    strides, dilations = strides or ones, dilations or ones
    begins, ends = padding(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    if begins != ends or any(2 * pad > k for pad, k in zip(begins, kernel_shape, strict=True)):
        x = F.pad(x, _for_pad(begins, ends), value=-torch.inf)
        begins = [0] * len(ones)
    pool = MAX_POOL[len(kernel_shape)]
    return pool(x, kernel_shape, strides, begins, dilations, bool(ceil_mode))


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    pads: Ints = (),
    strides: Ints = (),
    dilations: Ints = (),
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    auto_pad: bytes = b"NOTSET",
) -> Tensor:
    ones = [1] * len(kernel_shape)
    strides = strides or ones
    if any(each != 1 for each in dilations):
        raise ValueError(f"AveragePool: expected no dilations, got {[*dilations]}")
    begins, ends = padding(x.shape[2:], kernel_shape, strides, ones, pads, auto_pad)
    pool, ceil, counted = AVG_POOL[len(kernel_shape)], bool(ceil_mode), bool(count_include_pad)
    if begins == ends and all(2 * pad <= k for pad, k in zip(begins, kernel_shape, strict=True)):
        return pool(x, kernel_shape, strides, begins, ceil, counted)
    around = _for_pad(begins, ends)
    means = pool(F.pad(x, around), kernel_shape, strides, 0, ceil)
    if counted:
        return means
    inside = F.pad(torch.ones_like(x[:1, :1]), around)
    return means / pool(inside, kernel_shape, strides, 0, ceil)


def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    if transB and not transA and alpha == beta == 1 and (c is None or c.ndim == 1):
        return F.linear(a, b, c)
    product = (a.mT if transA else a) @ (b.mT if transB else b)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


def batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> Tensor:
    if training_mode or not spatial:
        raise ValueError("BatchNormalization: expected statistics of each channel, fixed after training")
    return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    normalized = x.shape[axis:]
    if scale.shape != normalized:
        scale, bias = scale.expand(normalized), None if bias is None else bias.expand(normalized)
    return F.layer_norm(x, normalized, scale, bias, epsilon)


def rms_norm(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return F.rms_norm(x, x.shape[axis:], None, epsilon) * scale


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def group_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    opset: int,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Scale and bias are of each group before opset 21, of each channel from there on."""
    if len(scale) != x.shape[1]:
        each = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def local_response_norm(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    before = (size - 1) // 2
    around = [0, 0] * (x.ndim - 2) + [before, size - 1 - before]
    squares = F.pad(x.square(), around)
    window = squares[:, : x.shape[1]]
    for shift in range(1, size):
        window = window + squares[:, shift : shift + x.shape[1]]
    return x / (bias + alpha / size * window).pow(beta)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: int = 0,
    scale: float | None = None,
    **others: Any,
) -> Tensor:
    """Of heads (B, heads, N, D) that are split already."""
    unknown = [name for name, given in others.items() if given and name != "softmax_precision"]
    if query.ndim != 4 or unknown:
        what = ", ".join(unknown) or f"{query.ndim} dimensions"
        raise ValueError(f"Attention: expected (B, heads, N, D) and no more, got {what}")
    return F.scaled_dot_product_attention(query, key, value, mask, is_causal=bool(is_causal), scale=scale)
