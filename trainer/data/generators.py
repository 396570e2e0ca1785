"""Random generators of a run: each stream depends on its key alone.

Every random number comes from ``keyed_generator``, for a whole global batch at once, of which each process
takes its rows. So a resumed run repeats an unbroken one, and the number of processes does not change what is
drawn.
"""

from __future__ import annotations

import hashlib

import torch


def keyed_generator(*key: int | str) -> torch.Generator:
    """A generator whose stream depends on ``key`` alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
