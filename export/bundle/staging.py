"""A bundle's folder that is filled aside, and takes its place whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdk.errors import UsageError


@contextmanager
def staged(out: Path, force: bool) -> Iterator[Path]:
    """A new folder beside ``out``: it takes that place on success, and vanishes on any failure or Ctrl-C.

    Args:
        out: absolute, so that it is the same place once it was replaced.
        force: replace what is there.

    Raises:
        UsageError: ``out`` is a mount point, which no other folder can take the place of.
    """
    if os.path.ismount(out):
        raise UsageError(
            f"{out}: it is a mount point, and a bundle's folder is replaced as a whole",
            hint="mount the folder above it, or give a folder inside it",
        )
    with tempfile.TemporaryDirectory(prefix=".edge-purify-", suffix=".part", dir=out.parent) as room:
        folder, replaced = Path(room, "new"), Path(room, "replaced")
        folder.mkdir()
        yield folder
        try:
            if force and out.exists():
                out.rename(replaced)
            folder.rename(out)
        except BaseException:
            if replaced.exists() and not out.exists():
                replaced.rename(out)
            raise
