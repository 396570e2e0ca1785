"""A bound on what building a model may take, where its config is a stranger's.

A config of a few bytes can ask for any amount of memory or layers. What is built to take weights from a file
needs about as much as the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sdk.errors import UsageError

SPARE_BYTES = 64 << 20
SPARE_TENSORS = 1000
TIMES = 4  # weights, their initial values and derived constants
_MAKERS = {
    getattr(torch, name)
    for name in ("empty", "zeros", "ones", "full", "randn", "rand", "eye", "arange", "linspace", "randperm")
}


class Budget(TorchFunctionMode):
    """A context in which new tensors may take a few times as much as ``weights``.

    Raises:
        UsageError: more is asked for; nothing of that size has been allocated.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        stored = list(weights)
        self._bytes_left = TIMES * sum(tensor.untyped_storage().nbytes() for tensor in stored) + SPARE_BYTES
        self._tensors_left = TIMES * len(stored) + SPARE_TENSORS

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MAKERS:
            self._bytes_left -= 4 * _numel(func, args, kwargs or {})
            self._tensors_left -= 1
            if min(self._bytes_left, self._tensors_left) < 0:
                raise UsageError("its model is far larger than the weights that are there for it")
        return func(*args, **(kwargs or {}))


def _numel(func: Any, args: Any, kwargs: Any) -> int:
    size = kwargs.get("size", args)
    if size and isinstance(size[0], list | tuple):
        return math.prod(size[0])
    lengths = [value for value in size if isinstance(value, int)]
    if func is torch.eye:
        return max(lengths, default=0) ** 2
    is_line = func in (torch.arange, torch.linspace, torch.randperm)
    return max(lengths, default=0) if is_line else math.prod(lengths)
