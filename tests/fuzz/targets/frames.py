"""Frames: arrays of any shape, type, order and content, and what is no array at all."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sdk.purifier import Purifier
from sdk.result import Result
from tests.conftest import write_tiny_bundle
from tests.fuzz import bar
from tests.fuzz.inputs import scalars

TYPES = (
    "u1",
    "u1",
    "u1",
    "i1",
    "u2",
    ">u2",
    "i4",
    "i8",
    "f2",
    "f4",
    "f8",
    "c8",
    "?",
    "U2",
    "S3",
    "O",
    "M8[s]",
)
MAX_VALUES = 4_000_000
SIDES = st.one_of(st.integers(0, 4), st.sampled_from([16, 17, 31, 64, 255, 1000]))


def prepare(folder: Path, stack: ExitStack) -> Purifier:
    write_tiny_bundle(folder / "bundle")
    purifier = Purifier.load(folder / "bundle", backend="onnxruntime", precision="fp32", suspicion=True)
    return stack.enter_context(purifier)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """An array, mostly three-dimensional, perhaps a view with odd strides, perhaps of NaN."""
    shape = tuple(draw(st.lists(SIDES, min_size=0, max_size=4)))
    if draw(st.booleans()):
        shape = (draw(SIDES), draw(SIDES), draw(st.sampled_from([3, 3, 3, 1, 4, 0])))
    while math.prod(shape) > MAX_VALUES:  # what the input takes by itself is no finding
        shape = tuple(side // 2 for side in shape)
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    array = np.zeros(shape, dtype)
    if dtype.kind in "fc" and array.size:
        array[...] = draw(st.sampled_from([np.nan, np.inf, -1.0, 0.5]))
    elif dtype == np.uint8:
        array[...] = draw(st.integers(0, 255))
    how = draw(st.integers(0, 7))
    if how == 1:
        array = array.T
    elif how == 2 and array.ndim:
        array = array[::-1]
    elif how == 3 and array.ndim == 3:
        array = array[::2, ::-3, ::-1]
    elif how == 4:
        array = np.asfortranarray(array)
    elif how == 5 and array.ndim:
        array = np.broadcast_to(array[:1], array.shape)
    elif how == 6:
        array.setflags(write=False)
    return array


def attempt(data: st.DataObject, shared: Purifier, folder: Path) -> None:
    frames = [data.draw(st.one_of(arrays(), arrays(), arrays(), scalars), "frame")]
    frames *= data.draw(st.sampled_from([1, 1, 1, 3]))
    with bar.held(folder):
        results = [shared(frames[0])] if len(frames) == 1 else shared.batch(frames)
        assert all(isinstance(result, Result) and result.label for result in results)
        shared.undefended(frames[0])
