"""ONNX operators in torch: those of which the exporter makes REN, MAEP and the classifiers.

Each takes its node's inputs in order, None for one left out, and its attributes by keyword. Shapes, axes
and bounds that a node takes as inputs are constants of its graph, so they are read as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FLOATS = {1: torch.float32, 10: torch.float16}  # by ONNX's number of a type
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


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: Sequence[int] = (0, 0, 0, 0),
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    auto_pad: bytes = b"NOTSET",
    kernel_shape: Sequence[int] = (),
) -> Tensor:
    _refuse_auto_pad(auto_pad)
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, weight, bias, strides, (top, left), dilations, group)


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: Sequence[int] = (0, 0, 0, 0),
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    output_padding: Sequence[int] = (0, 0),
    group: int = 1,
    auto_pad: bytes = b"NOTSET",
    kernel_shape: Sequence[int] = (),
) -> Tensor:
    _refuse_auto_pad(auto_pad)
    if tuple(pads[:2]) != tuple(pads[2:]):
        raise ValueError(f"ConvTranspose: expected equal pads on both sides, got {[*pads]}")
    return F.conv_transpose2d(x, weight, bias, strides, pads[:2], output_padding, group, dilations)


def _refuse_auto_pad(auto_pad: bytes) -> None:
    if auto_pad != b"NOTSET":
        raise ValueError(f"auto_pad: expected NOTSET, got {auto_pad.decode()}")


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    product = (a.mT if transA else a) @ (b.mT if transB else b)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


def _batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    if training_mode:
        raise ValueError("BatchNormalization: expected training_mode 0")
    return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    return F.layer_norm(x, x.shape[axis:], scale, bias, epsilon)


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x.clamp(None if low is None else low.item(), None if high is None else high.item())


def _reduce_mean(
    x: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    places = [] if axes is None else axes.tolist()
    if not places and noop_with_empty_axes:
        return x
    return x.mean(dim=places or tuple(range(x.ndim)), keepdim=bool(keepdims))


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    sizes = shape.tolist()
    if not allowzero:
        sizes = [size or x.shape[place] for place, size in enumerate(sizes)]
    return x.reshape(sizes)


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    ndim = x.ndim + axes.numel()
    for axis in sorted(place % ndim for place in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _slice(
    x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    places = range(len(starts)) if axes is None else axes.tolist()
    strides = [1] * len(starts) if steps is None else steps.tolist()
    cut = [slice(None)] * x.ndim
    for place, *bounds in zip(places, starts.tolist(), ends.tolist(), strides, strict=True):
        cut[place] = slice(*bounds)
    return x[tuple(cut)]


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, shape.tolist()))  # type: ignore[no-untyped-call]


def _gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        raise ValueError(f"GatherND: expected batch_dims 0, got {batch_dims}")
    return x[indices.unbind(-1)]


def _scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: bytes = b"none"
) -> Tensor:
    if reduction != b"none":
        raise ValueError(f"ScatterElements: expected no reduction, got {reduction.decode()}")
    return x.scatter(axis, indices, updates)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "BatchNormalization": _batch_norm,
    "Cast": lambda x, *, to, saturate=1: x.to(FLOATS[to]),
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": dequantize,
    "Div": torch.div,
    "Erf": torch.erf,
    "Expand": _expand,
    "FakeQuantize": fake_quantize,
    "GatherElements": lambda x, indices, *, axis=0: x.gather(axis, indices),
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Identity": lambda x: x,
    "LayerNormalization": _layer_norm,
    "MatMul": torch.matmul,
    "Max": lambda x, least: x.clamp(min=least),
    "Min": lambda x, most: x.clamp(max=most),
    "Mul": torch.mul,
    "Pow": lambda x, exponent: x.pow(exponent.item()),
    "ReduceMean": _reduce_mean,
    "Relu": torch.relu,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "Slice": _slice,
    "Softmax": lambda x, *, axis=-1: x.softmax(axis),
    "Sqrt": torch.sqrt,
    "Squeeze": lambda x, axes: x.squeeze(tuple(axes.tolist())),
    "Sub": torch.sub,
    "Transpose": lambda x, *, perm: x.permute(perm),
    "Unsqueeze": _unsqueeze,
}
