"""Soft targets: a teacher's class probabilities for every training image, mixed with the labels.

A network that is trained adversarially on the predictions of a robust teacher overfits less than on labels
(Chen et al., 'Robust overfitting may be mitigated by properly learned smoothening', ICLR 2021). The targets
are computed once and stored as float16.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdk.bundle import sha256_of
from sdk.errors import UsageError
from sdk.files import replacing, require_writable
from trainer.checkpoint import Loaded
from trainer.data import DataError, DataSet, ImageFolders, Images, keyed_generator
from trainer.models import Defence

BATCH = 500
_HINT = "'edge-train soften CHECKPOINT --data DIR --share S --out FILE' makes one"


@dataclass(frozen=True)
class SoftTargets:
    """Targets of one training split.

    Attributes:
        targets: float32 (N, C), rows that sum to 1 within float16's rounding.
        data: digest of the training split that they belong to; see ``digest_of``.
        share: weight of the teacher's probabilities; the labels have the rest.
        teacher: name, checkpoint's sha256 and provenance of the teacher.
    """

    targets: Tensor
    data: str
    share: float
    teacher: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the file, atomically.

        Raises:
            DataError: it can't be written; what was there stays.
        """
        about = {"data": self.data, "share": self.share, "teacher": self.teacher}
        try:
            with replacing(path) as stream:
                np.savez_compressed(
                    stream, targets=self.targets.half().numpy(), about=np.array(json.dumps(about))
                )
        except OSError as error:
            raise _unwritable(path, error) from None

    @classmethod
    def load(cls, path: Path) -> SoftTargets:
        """Read what ``save`` wrote.

        Raises:
            DataError: no such file, or it is damaged or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                targets, about = file["targets"], json.loads(str(file["about"]))
                data, share, teacher = str(about["data"]), float(about["share"]), dict(about["teacher"])
        except FileNotFoundError:
            raise DataError(f"soft targets {path}: no such file", hint=_HINT) from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"soft targets {path}: not readable as such: {reason}", hint=_HINT) from None
        if missing := {"name", "checkpoint", "provenance"} - teacher.keys():
            raise DataError(
                f"soft targets {path}: the teacher has no {', '.join(sorted(missing))}", hint=_HINT
            )
        if targets.dtype != np.float16 or targets.ndim != 2 or not np.isfinite(targets).all():
            raise DataError(
                f"soft targets {path}: expected finite float16 (N, C), got {targets.dtype} {targets.shape}",
                hint=_HINT,
            )
        return cls(torch.from_numpy(targets).float(), data, share, teacher)


@dataclass(frozen=True)
class OpenedTargets:
    """Soft targets that belong to the training images of a run.

    Attributes:
        targets: float32 (N, C), a row for each training image.
        provenance: sha256 of the file, share, and the teacher's name and checkpoint; resuming compares it.
        ancestor: the teacher's provenance, by its name.
    """

    targets: Tensor
    provenance: dict[str, Any]
    ancestor: dict[str, Any]


def open_soft_targets(path: Path, training: DataSet) -> OpenedTargets:
    """Read the file at ``path`` for ``training``.

    Raises:
        DataError: it can't be read, or was made for other images, another order or another split.
    """
    soft = SoftTargets.load(path)
    if soft.data != digest_of(training) or soft.targets.shape != (len(training), len(training.labels)):
        raise DataError(
            f"soft targets {path}: they belong to other training images than these {len(training)}",
            hint="take the data set and the data.validation that their checkpoint was trained with",
        )
    teacher = {key: soft.teacher[key] for key in ("name", "checkpoint")}
    provenance = {"file": sha256_of(path), "share": soft.share, "teacher": teacher}
    return OpenedTargets(soft.targets, provenance, {teacher["name"]: soft.teacher["provenance"]})


def make(
    loaded: Loaded,
    checkpoint: Path,
    training: DataSet,
    *,
    share: float,
    on_batch: Callable[[int], None] = lambda done: None,
) -> SoftTargets:
    """(1 - share) one-hot + share * mean class probabilities of the teacher, for each image of ``training``.

    The probabilities are the mean over the members, over the purifiers with fresh random inputs, and, if the
    teacher was trained with mirrored images, over the image and its mirror image.

    Args:
        loaded: the teacher, as read from ``checkpoint``.
        training: the split that the student trains on.
        share: in [0, 1].
        on_batch: called with the number of images done, after every batch.

    Raises:
        UsageError: ``share`` is out of range, or the teacher has other classes.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"share: expected a share in [0, 1], got {share}")
    if loaded.labels != training.labels:
        raise UsageError(
            f"checkpoint {checkpoint}: its classes are not those of the data set",
            hint="take the data set that it was trained on",
        )
    generator = keyed_generator("soft targets")
    rows = []
    for images, labels in training.batches(BATCH):
        views = (images, images.flip(-1)) if loaded.config["data"]["flip"] else (images,)
        mean = torch.stack([_probabilities(loaded.defence, view, generator) for view in views]).mean(0)
        rows.append(share * mean + (1 - share) * F.one_hot(labels, mean.shape[1]))
        on_batch(sum(map(len, rows)))
    teacher = {
        "name": loaded.config["name"],
        "checkpoint": loaded.digest or sha256_of(checkpoint),
        "provenance": loaded.provenance,
    }
    return SoftTargets(torch.cat(rows), digest_of(training), share, teacher)


def check_writable(path: Path) -> None:
    """Fail before the work if ``path`` can't be written; leaves nothing there.

    Raises:
        DataError: it can't.
    """
    try:
        require_writable(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def digest_of(training: DataSet) -> str:
    """sha256 of the split's labels and, in order, its pixels; for image folders, its files' names."""
    digest = hashlib.sha256(training.targets.numpy().tobytes())
    if isinstance(training, Images):
        digest.update(np.ascontiguousarray(training.pixels.numpy()).data)
    elif isinstance(training, ImageFolders):
        digest.update("\0".join(training.paths).encode())
    return digest.hexdigest()


@torch.no_grad()
def _probabilities(defence: Defence, images: Tensor, generator: torch.Generator) -> Tensor:
    """Mean class probabilities (B, C) over all purifiers, each with one random input, and all members."""
    means = []
    for k in range(defence.n_purifiers):
        draw = defence.draw(len(images), generator)
        draw.purifier.fill_(k)
        means.append(defence.classifier.all_logits(defence.purify(images, draw)).softmax(-1).mean(0))
    return torch.stack(means).mean(0)


def _unwritable(path: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    return DataError(f"soft targets {path}: can't be written: {reason}", hint="name a file, as soft.npz")
