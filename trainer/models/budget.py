"""A bound on what building a model may take, where its config is a stranger's.

A config of a few bytes can ask for any amount of memory or layers. What is built to take weights from a file
needs about as much as the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdk.errors import UsageError

SPARE_BYTES = 64 << 20
SPARE_TENSORS = 1000
TIMES = 4  # weights, their initial values and derived constants
_MAKERS = {"empty", "zeros", "ones", "full", "randn", "rand", "eye", "arange", "randperm", "empty_strided"}


class Budget(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which new tensors may take a few times as much as ``weights``.

    Raises:
        UsageError: more is asked for; nothing of that size has been allocated.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        stored = list(weights)
        self._bytes_left = TIMES * sum(tensor.untyped_storage().nbytes() for tensor in stored) + SPARE_BYTES
        self._tensors_left = TIMES * len(stored) + SPARE_TENSORS

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _MAKERS and args:
            self._bytes_left -= 4 * _numel(func.overloadpacket.__name__, args)
            self._tensors_left -= 1
            if min(self._bytes_left, self._tensors_left) < 0:
                raise UsageError("its model is far larger than the weights that are there for it")
        return func(*args, **(kwargs or {}))


def _numel(name: str, args: Any) -> int:
    if isinstance(args[0], list | tuple):
        return math.prod(args[0])
    largest = max((int(value) for value in args if isinstance(value, int | float)), default=0)
    return largest**2 if name == "eye" else largest
