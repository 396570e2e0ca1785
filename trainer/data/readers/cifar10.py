"""CIFAR-10 from its binary or its python layout (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.data.dataset import DataError, Images

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_BINARY, _PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS  # bytes: the label, then the red, green and blue planes
_HINT = "remove it and run 'edge-train data cifar10'"


def read_cifar10(folder: Path, split: str) -> Images:
    """CIFAR-10, (N, 3, 32, 32).

    Args:
        folder: holds ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, or is one of them.
        split: "train" or "test".

    Raises:
        DataError: neither layout is there, or a file is short, has a label over 9, or is no CIFAR-10 batch.
    """
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    for root in (folder / _BINARY, folder / _PYTHON, folder):
        if (root / f"{names[0]}.bin").is_file():
            parts = [_binary_batch(root / f"{name}.bin") for name in names]
            break
        if (root / names[0]).is_file():
            parts = [_python_batch(root / name) for name in names]
            break
    else:
        raise DataError(
            f"no CIFAR-10 in {folder}: expected {names[0]}.bin in {_BINARY} or {names[0]} in {_PYTHON}",
            hint=f"fetch it by 'edge-train data cifar10 --to {folder}'",
        )
    pixels, targets = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Images(torch.from_numpy(pixels), torch.from_numpy(targets), CIFAR10_LABELS)


def _binary_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = np.frombuffer(_read(path), np.uint8)
    if raw.size == 0 or raw.size % _RECORD:
        raise DataError(
            f"{path}: expected records of {_RECORD} bytes, got {raw.size} bytes, of which the last "
            f"{raw.size % _RECORD} are no whole record",
            hint=_HINT,
        )
    records = raw.reshape(-1, _RECORD)
    return _checked(path, records[:, 1:], records[:, 0])


def _python_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickled(path)
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise DataError(f"{path}: not a CIFAR-10 batch: expected a dict with data and labels", hint=_HINT)
    targets = batch[b"labels"]
    if not isinstance(targets, list) or not all(type(target) is int for target in targets):
        raise DataError(f"{path}: labels: expected a list of whole numbers", hint=_HINT)
    shape = (len(targets), _PIXELS)
    pixels = batch[b"data"].array(shape) if isinstance(batch[b"data"], _Part) else None
    if pixels is None:
        raise DataError(f"{path}: data: expected a uint8 array of shape {shape}, got another", hint=_HINT)
    return _checked(path, pixels, np.array(targets, dtype=object))


def _unpickled(path: Path) -> Any:
    data = _read(path)
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises whatever its opcodes happen to run into
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: not a CIFAR-10 batch ({reason})", hint=_HINT) from None


class _Unpickler(pickle.Unpickler):
    """Reads the python layout, a pickle, and runs none of the code it names: arrays become parts to check.

    numpy's own functions would trust the pickle; a damaged one crashes them (measured: segmentation faults).
    """

    def find_class(self, module: str, name: str) -> object:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return _Part
        if (module, name) == ("_codecs", "encode"):
            return _latin1  # how Python 3 writes bytes for Python 2
        raise pickle.UnpicklingError(f"it names {f'{module}.{name}'!r}, which no data set needs")


class _Part:
    """Stands for an array or its type, and keeps what the pickle says of it."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self, shape: tuple[int, int]) -> np.ndarray | None:
        """The uint8 array of this shape, None if it is another."""
        match self.state:
            case (_, stated, _Part(args=("u1" | b"u1", *_)), is_fortran, bytes(data)):
                if stated == shape and len(data) == shape[0] * shape[1]:
                    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")
        return None


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def _checked(path: Path, pixels: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wrong = np.flatnonzero((targets < 0) | (targets > 9))
    if wrong.size:
        raise DataError(
            f"{path}: record {wrong[0]}: expected a label 0 to 9, got {targets[wrong[0]]}", hint=_HINT
        )
    return np.ascontiguousarray(pixels).reshape(-1, 3, 32, 32), targets.astype(np.int64)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}", hint=_HINT) from None
