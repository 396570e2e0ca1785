"""SVHN's cropped digits (Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers/), format 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from trainer.data.dataset import DataError, Images
from trainer.data.readers.matlab import read_arrays

SVHN_LABELS = tuple("0123456789")

_FOLDER = "svhn"
_HINT = "remove it and run 'edge-train data svhn'"


def read_svhn(folder: Path, split: str) -> Images:
    """SVHN, (N, 3, 32, 32), with the digit as the target (the file calls the digit 0 label 10).

    Args:
        folder: holds ``train_32x32.mat`` and ``test_32x32.mat``, or a folder ``svhn`` that does.
        split: "train" or "test".

    Raises:
        DataError: the file is absent, damaged, or has a label outside 1 to 10.
    """
    name = f"{split}_32x32.mat"
    path = next((root / name for root in (folder / _FOLDER, folder) if (root / name).is_file()), None)
    if path is None:
        raise DataError(
            f"no SVHN in {folder}: expected {_FOLDER}/{name} there",
            hint=f"fetch it by 'edge-train data svhn --to {folder}'",
        )
    try:
        arrays = read_arrays(path.read_bytes(), ("X", "y"))
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}", hint=_HINT) from None
    except ValueError as error:
        raise DataError(f"{path}: {error}", hint=_HINT) from None
    if missing := {"X", "y"} - arrays.keys():
        raise DataError(
            f"{path}: expected the arrays X and y, found no {' and no '.join(sorted(missing))}", hint=_HINT
        )
    pixels, digits = _checked(path, arrays["X"], arrays["y"])
    return Images(torch.from_numpy(pixels), torch.from_numpy(digits), SVHN_LABELS)


def _checked(path: Path, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3, 32, 32) from (32, 32, 3, N), and digits (N,) from labels (N, 1)."""
    count = pixels.shape[-1]
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, count) or count == 0:
        raise DataError(
            f"{path}: X: expected uint8 (32, 32, 3, N), got {pixels.dtype} {pixels.shape}", hint=_HINT
        )
    if labels.shape != (count, 1):
        raise DataError(
            f"{path}: y: expected a label for each of {count} images, got shape {labels.shape}", hint=_HINT
        )
    wrong = np.flatnonzero(~np.isin(labels[:, 0], np.arange(1, 11)))
    if wrong.size:
        raise DataError(
            f"{path}: record {wrong[0]}: expected a label 1 to 10, got {labels[wrong[0], 0]}", hint=_HINT
        )
    return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels[:, 0].astype(np.int64) % 10
