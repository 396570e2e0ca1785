"""What a batch reads: pictures in folders, globs and lists of both, and Parquet files of encoded pictures.

A path may be an address that pyarrow's file systems read, such as ``s3://bucket/folder``.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import SourceError, UsageError
from sdk.sources.content import shown
from sdk.sources.pictures import PICTURE_SUFFIXES

PARQUET = ".parquet"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Item:
    """One picture file, or one row group of a Parquet file.

    Attributes:
        path: as its file system takes it, encoded: a file's name may be no text.
        source: as records name it.
        frame: number of the picture, or of the row group's first row in its file.
        group: number of the row group; None for a picture file.
        rows: how many pictures it holds.
    """

    path: bytes
    source: str
    frame: int
    group: int | None = None
    rows: int = 1


@dataclass(frozen=True)
class Found:
    """The items of an input, and by name what isn't read and why."""

    items: tuple[Item, ...]
    left_out: dict[str, str]

    @property
    def rows(self) -> int:
        return sum(item.rows for item in self.items)


def find(specs: Sequence[str], column: str) -> Found:
    """All that ``specs`` name: files, folders with all below them, and globs.

    Args:
        column: of the encoded pictures in a Parquet file.

    Raises:
        SourceError: one can't be read, or there is nothing in all of them.
        UsageError: a Parquet file lacks the column.
    """
    files: dict[str, str] = {}
    for spec in specs:
        for path, source in _files(spec):
            files.setdefault(path, source)
    items: list[Item] = []
    left_out: dict[str, str] = {}
    n_pictures = 0
    for path, source in files.items():
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - it may be an address
        if suffix == PARQUET:
            try:
                items += _row_groups(path, source, column)
            except SourceError as error:
                left_out[source] = str(error)
        elif suffix in PICTURE_SUFFIXES:
            items.append(Item(os.fsencode(path), source, n_pictures))
            n_pictures += 1
        else:
            left_out[source] = f"{source}: no picture and no Parquet file, by its name"
    if not items:
        reason = next(iter(left_out.values()), "nothing in it")
        raise SourceError(f"{', '.join(specs)}: nothing to read: {reason}")
    return Found(tuple(items), left_out)


def open_file(path: str) -> Any:
    """A file of this machine, or at an address, as a binary stream that can seek; a context manager.

    Raises:
        SourceError: there is no file system for such an address.
        OSError: it can't be opened.
    """
    if not _SCHEME.match(path):
        return Path(path).open("rb")
    system, name = _file_system(path)
    return system.open_input_file(name)


def read_bytes(path: str, limit: int) -> bytes:
    """The content of a file, of no more than ``limit`` bytes and one.

    Raises:
        SourceError: there is no file system for such an address.
        OSError: it can't be read.
    """
    with open_file(path) as stream:
        content: bytes = stream.read(limit + 1)
        return content


def _file_system(path: str) -> tuple[Any, str]:
    """The file system at an address, and the name there."""
    from pyarrow import fs

    try:
        found, name = fs.FileSystem.from_uri(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: can't be reached: {_first_line(error)}") from None
    return found, str(name)


def _files(spec: str) -> Iterable[tuple[str, str]]:
    """(path, source) of every file that ``spec`` names, in the order of their names."""
    if not spec:
        raise UsageError("INPUT: expected a path, got an empty one")
    wild = _WILD.search(spec)
    is_address = _SCHEME.match(spec) is not None
    if not is_address and os.path.lexists(spec):
        wild = None  # a file whose name has such characters
    folder = spec if wild is None else spec[: spec.rfind("/", 0, wild.start()) + 1]
    try:
        below = _at_address(folder) if is_address else _local(folder or ".")
    except OSError as error:
        raise SourceError(f"{shown(spec)}: can't be read: {_first_line(error)}") from None
    if below is None:
        return [(spec, shown(spec))]
    prefix = folder.rstrip("/") + "/" if folder else ""
    found = [
        prefix + inside
        for inside in below
        if not any(part.startswith((".", "_")) for part in inside.split("/"))
        and (wild is None or _matches(prefix + inside, spec))
    ]
    return [(path, shown(path)) for path in sorted(found, key=_natural)]


def _local(folder: str) -> list[str] | None:
    """The files below a folder, by their names from there; None if it is a file itself."""
    if not os.path.exists(folder):  # noqa: PTH110 - a name that is no text
        raise SourceError(f"{shown(folder)}: no such file or folder")
    if not os.path.isdir(folder):  # noqa: PTH112
        return None
    return [
        os.path.relpath(os.path.join(where, name), folder)  # noqa: PTH118
        for where, _, names in os.walk(folder)
        for name in names
    ]


def _at_address(folder: str) -> list[str] | None:
    """The same at an address."""
    from pyarrow import fs

    system, name = _file_system(folder)
    info = system.get_file_info(name)
    if info.type == fs.FileType.NotFound:
        raise SourceError(f"{folder}: no such file or folder")
    if info.type == fs.FileType.File:
        return None
    below = system.get_file_info(fs.FileSelector(name, recursive=True))
    start = len(name.rstrip("/")) + 1
    return [each.path[start:] for each in below if each.type == fs.FileType.File]


def _matches(path: str, pattern: str) -> bool:
    """As a shell does: ``*`` ends at a slash, ``**`` doesn't."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern)
    rules = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = "".join(
        rules.get(part) or (fnmatch.translate(part)[4:-3] if part.startswith("[") else re.escape(part))
        for part in parts
        if part
    )
    return re.fullmatch(expression, path, re.DOTALL) is not None


def _row_groups(path: str, source: str, column: str) -> list[Item]:
    """The row groups of a Parquet file.

    Raises:
        SourceError: it can't be read.
        UsageError: it lacks the column.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with open_file(path) as stream:
            file = parquet.ParquetFile(stream)
            schema, metadata = file.schema_arrow, file.metadata
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{source}: not a Parquet file, or a damaged one: {_first_line(error)}") from None
    if column not in schema.names or not _holds_bytes(schema.field(column).type):
        names = ", ".join(field.name for field in schema if _holds_bytes(field.type)) or "none"
        raise UsageError(
            f"{source}: no column {column!r} of encoded pictures, those of bytes are {names}",
            hint="give --column",
        )
    items, first = [], 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if rows:
            items.append(Item(os.fsencode(path), source, first, group, rows))
        first += rows
    return items


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts frame-9 before frame-10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
