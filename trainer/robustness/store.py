"""What an evaluation has finished, batch by batch, so that a killed one goes on where it stopped."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch
from torch import Tensor

from sdk.errors import UsageError


class Store:
    """A folder with one file per batch of each rung, under a name that holds everything the outcome depends
    on.

    Args:
        root: where evaluations are kept.
        key: what the outcome depends on; other keys have other folders.

    Raises:
        UsageError: the folder can't be made.
    """

    def __init__(self, root: Path, key: object) -> None:
        self.folder = root / hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--work {root}: can't be written: {error.strerror}") from None

    def load(self, name: str) -> dict[str, Tensor] | None:
        """The tensors saved as ``name``; None if there are none, or a crash left them damaged."""
        try:
            return torch.load(self.folder / f"{name}.pt", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep ``tensors``, wholly or not at all."""
        part = self.folder / f"{name}.part"
        torch.save(tensors, part)
        part.replace(self.folder / f"{name}.pt")
