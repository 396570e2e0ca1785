"""How a torch draw enters the engines: the random inputs that a bundle declares, and their values."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt
import torch

from sdk.bundle import RandomInput
from trainer.models.defence import Defence, Draw

NAMES = {torch.float32: "atom_mask", torch.int64: "keep"}  # a draw of REN holds a mask, one of MAEP indices


def random_inputs(defence: Defence) -> tuple[RandomInput, ...]:
    """The inputs beside ``image`` that each purifier of ``defence`` takes, in their order."""
    subset = defence.random_input
    if subset is None:
        return ()
    dtype: Literal["float32", "int64"] = "float32" if subset.encoding == "mask" else "int64"
    width = subset.size if subset.encoding == "mask" else subset.take
    return (
        RandomInput(
            name=subset.name,
            kind="subset",
            size=subset.size,
            take=subset.take,
            encoding=subset.encoding,
            dtype=dtype,
            shape=(1, width),
        ),
    )


def engine_inputs(draw: Draw) -> dict[str, npt.NDArray[Any]]:
    """The random inputs' values, by name, one row for each of ``draw``: an engine takes one row at a time."""
    values = draw.random_input
    return {NAMES[values.dtype]: values.numpy()} if values.shape[1] else {}
