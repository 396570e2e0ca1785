"""ONNX's Resize and Upsample in torch: one axis after the other, each by a sparse table or a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Ints = Sequence[int]


def resize(
    x: Tensor,
    region: Tensor | None = None,
    scales: Sequence[float] | None = None,
    sizes: Ints | None = None,
    *,
    opset: int,
    mode: bytes = b"nearest",
    coordinate_transformation_mode: bytes = b"half_pixel",
    nearest_mode: bytes = b"round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    axes: Ints | None = None,
    antialias: int = 0,
    keep_aspect_ratio_policy: bytes = b"stretch",
) -> Tensor:
    if opset < 11:  # Resize-10 has the scales second
        raise ValueError(f"Resize: expected opset 11 or later, got {opset}")
    if antialias or keep_aspect_ratio_policy != b"stretch":
        raise ValueError("Resize: expected no antialias, and keep_aspect_ratio_policy stretch")
    chosen = [axis % x.ndim for axis in (range(x.ndim) if axes is None else axes)]
    if sizes:
        factors = [size / x.shape[axis] for axis, size in zip(chosen, sizes, strict=True)]
        wanted = list(sizes)
    elif scales:
        factors = list(scales)
        wanted = [math.floor(x.shape[axis] * factor) for axis, factor in zip(chosen, factors, strict=True)]
    else:
        raise ValueError("Resize: expected scales or sizes")
    convention = coordinate_transformation_mode.decode()
    for axis, factor, size in zip(chosen, factors, wanted, strict=True):
        if size == x.shape[axis] and factor == 1:
            continue
        places = _coordinates(x.shape[axis], size, factor, convention)
        if mode == b"nearest":
            index = _nearest(places, nearest_mode.decode()).clamp(0, x.shape[axis] - 1)
            x = x.index_select(axis, index.to(x.device))
        else:
            weights = _weights(places, x.shape[axis], mode.decode(), cubic_coeff_a, bool(exclude_outside))
            x = torch.movedim(torch.movedim(x, axis, -1) @ weights.to(x).T, -1, axis)
    return x


def upsample(
    x: Tensor,
    factors: Sequence[float] | None = None,
    *,
    scales: Sequence[float] = (),
    mode: bytes = b"nearest",
) -> Tensor:
    """Upsample, and Resize of opset 10: output pixel k shows the input at k / scale."""
    chosen = list(scales if factors is None else factors)
    whole = all(factor == int(factor) for factor in chosen)
    if mode == b"nearest" and whole and x.ndim == 4 and chosen[:2] == [1, 1]:
        return F.interpolate(x, scale_factor=tuple(chosen[2:]), mode="nearest")
    kind = b"linear" if mode in (b"linear", b"bilinear") else mode
    return resize(
        x,
        None,
        chosen,
        opset=11,
        mode=kind,
        coordinate_transformation_mode=b"asymmetric",
        nearest_mode=b"floor",
    )


def _coordinates(size_in: int, size_out: int, factor: float, convention: str) -> Tensor:
    """Where each output pixel lies on the input's axis, float64 (size_out,)."""
    out = torch.arange(size_out, dtype=torch.float64)
    if convention == "align_corners":
        return out * (size_in - 1) / (size_out - 1) if size_out > 1 else torch.zeros_like(out)
    if convention == "asymmetric":
        return out / factor
    if convention == "tf_half_pixel_for_nn":
        return (out + 0.5) / factor
    if convention == "pytorch_half_pixel" and size_out == 1:
        return torch.zeros_like(out)
    if convention == "half_pixel_symmetric":
        adjusted = size_out / (factor * size_in)
        offset = size_in / 2 * (1 - adjusted)
        return offset + (out + 0.5) / factor - 0.5
    if convention in ("half_pixel", "pytorch_half_pixel"):
        return (out + 0.5) / factor - 0.5
    raise ValueError(f"Resize: coordinate_transformation_mode {convention} isn't known")


def _nearest(places: Tensor, rounding: str) -> Tensor:
    if rounding == "floor":
        return places.floor().long()
    if rounding == "ceil":
        return places.ceil().long()
    if rounding == "round_prefer_ceil":
        return (places + 0.5).floor().long()
    return (places - 0.5).ceil().long()


def _weights(places: Tensor, size: int, mode: str, a: float, exclude: bool) -> Tensor:
    """The matrix (size_out, size_in) of one axis."""
    if mode not in ("linear", "cubic"):
        raise ValueError(f"Resize: expected nearest, linear or cubic, got {mode}")
    taps = range(2) if mode == "linear" else range(-1, 3)
    base = places.floor()
    matrix = torch.zeros(len(places), size, dtype=torch.float64)
    rows = torch.arange(len(places))
    for tap in taps:
        index = base + tap
        distance = (places - index).abs()
        weight = (1 - distance).clamp(min=0) if mode == "linear" else _cubic(distance, a)
        if exclude:
            weight = torch.where((index >= 0) & (index < size), weight, 0.0)
        matrix.index_put_((rows, index.clamp(0, size - 1).long()), weight, accumulate=True)
    return matrix / matrix.sum(1, keepdim=True) if exclude else matrix


def _cubic(d: Tensor, a: float) -> Tensor:
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))
