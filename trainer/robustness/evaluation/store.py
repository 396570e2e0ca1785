"""What an evaluation has finished, batch by batch, so that a killed one goes on where it stopped."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import trainer
from sdk.errors import UsageError
from sdk.files import write_atomically

ATTACKS = ("robustness", "models")  # the trainer's packages whose code decides what an attack finds
DIGEST_SIZE = hashlib.sha256().digest_size


class Store:
    """A folder with one file per batch of each rung, under a name that holds everything the outcome depends
    on, the attacks' own code included.

    Args:
        root: where evaluations are kept.
        key: what else the outcome depends on; other keys have other folders.

    Attributes:
        seconds_saved: that what was loaded took when it was made.

    Raises:
        UsageError: the folder can't be made.
    """

    def __init__(self, root: Path, key: object) -> None:
        self.root = root
        self.seconds_saved = 0.0
        self.folder = root / hashlib.sha256(repr((code_digest(), key)).encode()).hexdigest()[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def load(self, name: str) -> dict[str, Tensor] | None:
        """The tensors saved as ``name``; None if there are none, or they are damaged."""
        try:
            stored = (self.folder / f"{name}.pt").read_bytes()
        except OSError:
            return None
        content, digest = stored[:-DIGEST_SIZE], stored[-DIGEST_SIZE:]
        if hashlib.sha256(content).digest() != digest:  # torch reads many a damaged file without a word
            return None
        return torch.load(io.BytesIO(content), weights_only=True)

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep ``tensors``, wholly or not at all: torch's format, and its sha256 behind it.

        Raises:
            UsageError: the folder can't be written, or the disk is full.
        """
        stream = io.BytesIO()
        torch.save(tensors, stream)
        content = stream.getvalue()
        try:
            write_atomically(self.folder / f"{name}.pt", content + hashlib.sha256(content).digest())
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self.root}: can't be written: {error.strerror}; finished batches are to be kept there"
        )


@cache
def code_digest() -> str:
    """The sha256 of the attacks' and the models' sources, so that a mended attack is made anew."""
    root = Path(trainer.__file__).parent
    found = hashlib.sha256()
    for path in (path for package in ATTACKS for path in sorted((root / package).rglob("*.py"))):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()
