"""Operators of ONNX that move, pick, repeat and count values, in torch.

What a node takes as shape, axes or bounds comes as Python numbers. ``batch`` is how many images go through a
graph that was written for one: where that image's 1 stands in a shape, there are more then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Ints = Sequence[int]


def reshape(x: Tensor, shape: Ints, *, batch: int, single: Ints | None = None, allowzero: int = 0) -> Tensor:
    """``single`` is the shape that ``x`` has for one image, where ``shape`` was written for one."""
    own = x.shape if single is None else single
    sizes = list(shape)
    if not allowzero:
        sizes = [size or own[place] for place, size in enumerate(sizes)]
    if batch == 1 or single is None or tuple(x.shape) == tuple(single):
        return x.reshape(sizes)
    (axis,) = (place for place, size in enumerate(x.shape) if size != single[place])
    if -1 in sizes:
        sizes[sizes.index(-1)] = math.prod(single) // -math.prod(sizes)
    behind = math.prod(single[axis:])  # values from one image to the next
    places = [place for place in range(len(sizes)) if math.prod(sizes[place:]) == behind]
    if not places:
        raise ValueError("Reshape: a batch of images would be torn apart")
    place = next((place for place in places if sizes[place] == 1), places[-1])
    sizes[place] *= batch
    return x.reshape(sizes)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    first = axis % x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:first]), -1)


def concat(*values: Tensor, batch: int, axis: int = 1) -> Tensor:
    if batch > 1 and len({value.ndim for value in values}) == 1:
        sizes = [max(value.shape[place] for value in values) for place in range(values[0].ndim)]
        sizes[axis] = -1
        values = tuple(value.expand(sizes) if 1 in value.shape else value for value in values)
    return torch.cat(values, axis)


def unsqueeze(x: Tensor, places: Ints | int | None = None, *, axes: Ints = ()) -> Tensor:
    chosen = _many(axes if places is None else places)
    ndim = x.ndim + len(chosen)
    for axis in sorted(place % ndim for place in chosen):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, places: Ints | int | None = None, *, axes: Ints | None = None) -> Tensor:
    chosen = axes if places is None else places
    return x.squeeze() if chosen is None else x.squeeze(tuple(_many(chosen)))


def transpose(x: Tensor, *, perm: Ints = ()) -> Tensor:
    return x.permute(tuple(perm) or tuple(reversed(range(x.ndim))))


def cut(
    x: Tensor,
    begins: Ints | None = None,
    stops: Ints | None = None,
    places: Ints | None = None,
    steps: Ints | None = None,
    *,
    starts: Ints = (),
    ends: Ints = (),
    axes: Ints | None = None,
) -> Tensor:
    """Slice; bounds are attributes before opset 10."""
    starts, ends = starts if begins is None else begins, ends if stops is None else stops
    chosen = axes if places is None else places
    chosen = range(len(starts)) if chosen is None else chosen
    for axis, start, stop, step in zip(chosen, starts, ends, steps or [1] * len(starts), strict=True):
        size = x.shape[axis]
        first, last, _ = slice(start, stop, step).indices(size)
        if step > 0:
            place = [slice(None)] * x.ndim
            place[axis] = slice(first, max(first, last), step)
            x = x[tuple(place)]
        else:
            x = x.index_select(axis, torch.arange(first, last, step, device=x.device))
    return x


def split(
    x: Tensor,
    sizes: Ints | None = None,
    *,
    n_outputs: int,
    axis: int = 0,
    split: Ints | None = None,
    num_outputs: int | None = None,
) -> tuple[Tensor, ...]:
    """Into equal parts without sizes, the last one smaller if need be."""
    lengths = split if sizes is None else sizes
    if lengths is not None:
        return torch.split(x, list(lengths), axis)
    return torch.split(x, -(-x.shape[axis] // (num_outputs or n_outputs)), axis)


def gather(x: Tensor, indices: Tensor | int, *, axis: int = 0) -> Tensor:
    if isinstance(indices, int):
        return x.select(axis, indices)
    axis %= x.ndim
    places = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, places.flatten())
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        raise ValueError(f"GatherND: expected batch_dims 0, got {batch_dims}")
    return x[indices.unbind(-1)]


def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: bytes = b"none"
) -> Tensor:
    _refuse_reduction("ScatterElements", reduction)
    return x.scatter(axis, indices, updates.to(x.dtype))


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: bytes = b"none") -> Tensor:
    _refuse_reduction("ScatterND", reduction)
    return x.index_put(indices.unbind(-1), updates.to(x.dtype))


def _refuse_reduction(operator: str, reduction: bytes) -> None:
    if reduction != b"none":
        raise ValueError(f"{operator}: expected no reduction, got {reduction.decode()}")


def expand(x: Tensor, shape: Ints) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, shape))  # type: ignore[no-untyped-call]


def tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.tile(tuple(repeats))


def pad(
    x: Tensor,
    amounts: Ints | None = None,
    fill: float | None = None,
    places: Ints | None = None,
    *,
    mode: bytes = b"constant",
    pads: Ints = (),
    paddings: Ints = (),
    value: float = 0.0,
) -> Tensor:
    """Amounts and value are attributes before opset 11; negative amounts crop."""
    given = list(amounts if amounts is not None else (pads or paddings))
    axes = [axis % x.ndim for axis in (range(x.ndim) if places is None else places)]
    around = {axis: (given[k], given[k + len(axes)]) for k, axis in enumerate(axes)}
    if mode == b"constant":
        flat = [amount for axis in reversed(range(x.ndim)) for amount in around.get(axis, (0, 0))]
        return F.pad(x, flat, value=value if fill is None else fill)
    for axis, (before, after) in around.items():
        if before or after:
            places_of = _mirrored(x.shape[axis], before, after, mode)
            x = x.index_select(axis, torch.tensor(places_of, device=x.device))
    return x


def _mirrored(size: int, before: int, after: int, mode: bytes) -> list[int]:
    wanted = range(-before, size + after)
    if mode == b"edge":
        return [min(max(place, 0), size - 1) for place in wanted]
    if mode == b"wrap":
        return [place % size for place in wanted]
    if mode != b"reflect":
        raise ValueError(f"Pad: expected constant, reflect, edge or wrap, got {mode.decode()}")
    period = max(2 * (size - 1), 1)
    return [min(place % period, period - place % period) if size > 1 else 0 for place in wanted]


def depth_to_space(x: Tensor, *, blocksize: int, mode: bytes = b"DCR") -> Tensor:
    if mode == b"CRD":
        return F.pixel_shuffle(x, blocksize)
    rows, channels, height, width = x.shape
    blocks = x.reshape(rows, blocksize, blocksize, -1, height, width)
    moved = blocks.permute(0, 3, 4, 1, 5, 2)
    return moved.reshape(rows, channels // blocksize**2, height * blocksize, width * blocksize)


def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    rows, channels, height, width = x.shape
    blocks = x.reshape(rows, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    moved = blocks.permute(0, 3, 5, 1, 2, 4)
    return moved.reshape(rows, channels * blocksize**2, height // blocksize, width // blocksize)


def triangle(x: Tensor, diagonal: int | None = None, *, upper: int = 1) -> Tensor:
    return (torch.triu if upper else torch.tril)(x, diagonal or 0)


def einsum(*values: Tensor, equation: bytes) -> Tensor:
    return torch.einsum(equation.decode().replace(" ", ""), *values)


def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[slice(start, end)], dtype=torch.int64)


def size_of(x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


def constant_of_shape(shape: Ints, *, value: Tensor | None = None) -> Tensor:
    filling = torch.zeros(()) if value is None else value.reshape(())
    return filling.expand(tuple(shape)).clone()


def sequence(start: Any, limit: Any, delta: Any) -> Tensor:
    return torch.arange(start, limit, delta)


def non_zero(x: Tensor) -> Tensor:
    return x.nonzero().mT


def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    if select_last_index:
        raise ValueError("ArgMax: expected the first of equal values")
    return x.argmax(axis, keepdim=bool(keepdims))


def _many(places: Ints | int) -> list[int]:
    return [places] if isinstance(places, int) else list(places)
