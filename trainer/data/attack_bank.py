"""Attack banks: one perturbation for every training image, computed once and stored as int8.

A purifier that is trained against attacks on a **frozen** classifier meets the same attack in every epoch,
so the attack need not be made again. A perturbation is stored in steps of 1/255, what an attacked 8-bit
image can hold.
"""

from __future__ import annotations

import errno
import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdk.errors import UsageError
from sdk.files import replacing, require_writable
from trainer.config import MaskedRecipe, Recipe
from trainer.data import DataError, DataSet, ImageFolders, Images, keyed_generator, split_validation
from trainer.models import Defence
from trainer.objectives.attacks import pgd

Batch = tuple[int, Callable[[], Tensor]]  #: the first image's place, and what makes the perturbations

BATCH = 250
LARGEST = 127  # in int8


@dataclass(frozen=True)
class Bank:
    """Perturbations of a data set's images.

    Attributes:
        perturbations: int8 (N, 3, H, W), in steps of 1/255.
        digest: sha256 of the pixels they were made for.
        eps: their bound, in the images' units.
        steps: of PGD.
    """

    perturbations: Tensor
    digest: str
    eps: float
    steps: int

    def save(self, path: Path) -> None:
        """Write the bank atomically.

        Raises:
            DataError: it can't be written.
        """
        try:
            with replacing(path) as stream:
                np.savez(
                    stream,
                    perturbations=self.perturbations.numpy(),
                    digest=np.array(self.digest),
                    eps=np.array(self.eps),
                    steps=np.array(self.steps),
                )
        except OSError as error:
            raise _unwritable(path, error) from None

    @classmethod
    def load(cls, path: Path) -> Bank:
        """Read what ``save`` wrote.

        Raises:
            DataError: no such file, or it is damaged or no bank.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                perturbations = file["perturbations"]
                bank = cls(
                    torch.from_numpy(perturbations),
                    str(file["digest"]),
                    float(file["eps"]),
                    int(file["steps"]),
                )
        except FileNotFoundError:
            raise DataError(
                f"bank {path}: no such file",
                hint="'edge-train bank CHECKPOINT --data DIR --out FILE' makes one",
            ) from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            raise DataError(
                f"bank {path}: not readable as a bank: {' '.join(str(error).split())}", hint="make it again"
            ) from None
        if perturbations.dtype != np.int8 or perturbations.ndim != 4:
            raise DataError(
                f"bank {path}: expected int8 (N, 3, H, W), got {perturbations.dtype} {perturbations.shape}",
                hint="make it again",
            )
        return bank

    def attack(self, images: Images) -> Images:
        """The attacked images.

        Raises:
            DataError: the bank was made for other images.
        """
        if digest_of(images) != self.digest:
            raise DataError(
                f"the bank's {len(self.perturbations)} perturbations were made for other images than these "
                f"{len(images)}",
                hint="make a bank for this data set",
            )
        pixels = (images.pixels.short() + self.perturbations).clamp(0, 255).to(torch.uint8)
        return replace(images, pixels=pixels)


def _in_order(batches: Sequence[Batch]) -> list[Tensor]:
    return [attack() for _, attack in batches]


def make(
    defence: Defence,
    images: Images,
    *,
    eps: float = 8 / 255,
    steps: int = 10,
    seed: int = 0,
    on_batch: Callable[[int], None] = lambda done: None,
    do: Callable[[Sequence[Batch]], Sequence[Tensor]] = _in_order,
) -> Bank:
    """Attack every one of ``images`` by PGD on the classifier of ``defence`` alone, blind to its purifier.

    Each image is attacked through a member drawn for it, under the ℓ∞ bound ``eps``, from a random start.

    Args:
        on_batch: called with the number of images done, after every batch.
        do: does the batches, or finds what they came to: int8 (B, 3, H, W) each, in their order.

    Raises:
        UsageError: ``eps`` is no bound for images in [0, 1] that int8 can hold.
    """
    if not 0 < eps <= LARGEST / 255:
        raise UsageError(f"eps: expected a bound in (0, {LARGEST}/255] for images in [0, 1], got {eps}")
    defence.eval()

    def perturb(start: int) -> Tensor:
        batch = images[slice(start, start + BATCH)]
        generator = keyed_generator(seed, "bank", start)
        clean = batch.pixels.float() / 255
        attacked = _attack(defence, clean, batch.targets, generator, eps, steps)
        on_batch(min(start + BATCH, len(images)))
        return ((attacked - clean) * 255).round().to(torch.int8)

    made = do([(start, partial(perturb, start)) for start in range(0, len(images), BATCH)])
    return Bank(torch.cat(list(made)), digest_of(images), eps, steps)


def check_writable(path: Path) -> None:
    """That ``Bank.save`` can write to ``path``, before a bank is made; leaves nothing there.

    Raises:
        DataError: it can't.
    """
    try:
        require_writable(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def split_for(recipe: Recipe, images: DataSet, n_validation: int) -> tuple[DataSet, DataSet]:
    """(training, validation) as ``recipe`` takes them: split by its bank if it names one, plainly if not.

    Raises:
        DataError: the bank can't be read or is for other images, or the split leaves nothing to train on.
    """
    if not isinstance(recipe, MaskedRecipe) or recipe.bank is None:
        return split_validation(images, n_validation)
    return split(in_memory(images), Bank.load(Path(recipe.bank)), n_validation)


def in_memory(images: DataSet) -> Images:
    """``images`` as a bank needs them, all at once.

    Raises:
        DataError: they are too many, or one is damaged.
    """
    held = images if isinstance(images, Images) else None
    if isinstance(images, ImageFolders):
        held = images.in_memory
    if held is None:
        raise DataError(
            f"a bank is for pictures in memory, and these {len(images)} are too many",
            hint="leave recipe.bank out, and the attacks are made in every step",
        )
    return held


def split(images: Images, bank: Bank, n_validation: int) -> tuple[Images, Images]:
    """(training, validation), split as ``trainer.data`` does: pairs to train on, attacked images to judge by.

    A pair is a clean image and the attacked one behind it, uint8 (6, H, W), which augmentation moves
    together.
    """
    pairs = torch.cat([images.pixels, bank.attack(images).pixels], dim=1)
    training, validation = split_validation(replace(images, pixels=pairs), n_validation)
    return training, replace(validation, pixels=validation.pixels[:, 3:])


def digest_of(images: Images) -> str:
    """sha256 of the pixels."""
    return hashlib.sha256(np.ascontiguousarray(images.pixels.numpy()).data).hexdigest()


def _unwritable(path: Path, error: OSError) -> DataError:
    hint = "name a file, as bank.npz" if error.errno == errno.EISDIR else None
    return DataError(f"bank {path}: can't be written: {error.strerror or error}", hint=hint)


def _attack(
    defence: Defence, clean: Tensor, labels: Tensor, generator: torch.Generator, eps: float, steps: int
) -> Tensor:
    draw = defence.draw(len(labels), generator)

    def loss_of(attacked: Tensor) -> Tensor:
        return F.cross_entropy(defence.classify(attacked, draw), labels, reduction="sum")

    noise = torch.rand(clean.shape, generator=generator)
    return pgd(loss_of, clean, eps=eps, steps=steps, step_size=eps / 4, noise=noise)
