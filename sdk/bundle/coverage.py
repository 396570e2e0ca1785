"""What lies in a bundle's folder, and which of it the manifest's hashes, hence a signature, cover."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdk.bundle.manifest import MANIFEST, SIGNATURE, File
from sdk.bundle.regular import chunks_of

MAX_BYTES = 8 << 30  # of a built engine; what is larger counts as changed

Coverage = Literal["manifest", "signature", "listed", "changed", "missing", "not covered"]


@dataclass(frozen=True)
class CoveredFile:
    """One file of a bundle's folder.

    Attributes:
        file: its path inside the folder, with forward slashes.
        size_bytes: None where it is missing, or is no regular file.
        coverage: "manifest" and "signature" are ``bundle.json`` and its signature; "listed" has the sha256
            that the manifest names, "changed" has another, "missing" is listed and isn't there; "not covered"
            is a file that nothing vouches for and that the runtime doesn't use.
    """

    file: str
    size_bytes: int | None
    coverage: Coverage

    @property
    def is_covered(self) -> bool:
        """Whether a valid signature of the manifest vouches for this very content."""
        return self.coverage in ("manifest", "listed")


def coverage(root: Path, listed: Iterable[File]) -> list[CoveredFile]:
    """Compare the folder ``root`` with what its manifest lists, by path."""
    expected = {file.file: file.sha256 for file in listed}
    found = dict(_walk(root))
    files = []
    for name in sorted(expected.keys() | found.keys()):
        path = root / name
        size = _size(path) if _is_inside(root, name) else None
        if name == MANIFEST:
            files.append(CoveredFile(name, size, "manifest"))
        elif name == SIGNATURE:
            files.append(CoveredFile(name, size, "signature"))
        elif name not in expected:
            files.append(CoveredFile(name, size, "not covered"))
        elif size is None and _is_inside(root, name) and not os.path.lexists(path):
            files.append(CoveredFile(name, None, "missing"))
        else:
            same = size is not None and _sha256(path) == expected[name]
            files.append(CoveredFile(name, size, "listed" if same else "changed"))
    return files


def lies_inside(root: Path, name: str) -> bool:
    """Whether ``name``, as a manifest gives it, is a path inside ``root`` once all links are followed.

    Raises:
        OSError, RuntimeError: links lead in a circle, or a folder can't be searched.
        ValueError: no file can have that name.
    """
    return not os.path.isabs(name) and (root / name).resolve().is_relative_to(root.resolve())  # noqa: PTH117


def _is_inside(root: Path, name: str) -> bool:
    try:
        return lies_inside(root, name)
    except (OSError, RuntimeError, ValueError):
        return False


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Every entry that isn't a folder; a link to a folder counts as an entry and isn't followed."""
    for folder, subfolders, names in os.walk(root):
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        for name in (*names, *links):
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


def _size(path: Path) -> int | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _sha256(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        for chunk in chunks_of(path, MAX_BYTES):
            digest.update(chunk)
    except (OSError, ValueError):
        return None
    return digest.hexdigest()
