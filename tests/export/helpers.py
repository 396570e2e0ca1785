"""What lies in a folder, for tests of what an export leaves behind."""

from __future__ import annotations

from pathlib import Path


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
