"""A bundle's folder that is filled aside, and takes its place whole or not at all; a copy of a bundle."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdk.bundle import Bundle, write_file
from sdk.bundle.files import MAX_FILE_BYTES
from sdk.bundle.regular import read_regular
from sdk.errors import BundleError, UsageError


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


def copy_bundle(bundle: Bundle, new: Path) -> None:
    """Copy a bundle into the folder ``new``: listed files as they were verified, and what else is there.

    What else is there, such as ``bundle.json``, is copied only where it is a regular file, and no link is
    followed: the folder may be a stranger's.

    Raises:
        BundleError: a listed file is missing or changed, or another is enormous.
        OSError: a file can't be read, or written.
    """
    for file in bundle.manifest.files():
        (new / file.file).parent.mkdir(parents=True, exist_ok=True)
        write_file(new, file.file, bundle.read(file))
    for folder, subfolders, names in os.walk(bundle.folder):
        subfolders[:] = [name for name in subfolders if not Path(folder, name).is_symlink()]
        for path in (Path(folder, name) for name in names):
            copy = new / path.relative_to(bundle.folder)
            if not copy.exists() and stat.S_ISREG(path.lstat().st_mode):
                copy.parent.mkdir(parents=True, exist_ok=True)
                try:
                    copy.write_bytes(read_regular(path, MAX_FILE_BYTES))
                except ValueError as error:
                    raise BundleError(
                        f"bundle {bundle.folder}: {path.name!r} can't be copied: {error}"
                    ) from None
