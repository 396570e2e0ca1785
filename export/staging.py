"""A bundle's folder that is filled aside, and takes its place whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(out: Path, force: bool) -> Iterator[Path]:
    """A new folder beside ``out``: it takes that place on success, and vanishes on any failure or Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as room:
        folder, replaced = Path(room, "new"), Path(room, "replaced")
        folder.mkdir()
        yield folder
        if force and out.exists():
            out.rename(replaced)
        try:
            folder.rename(out)
        except BaseException:
            if replaced.exists():
                replaced.rename(out)
            raise
