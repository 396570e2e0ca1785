"""Pictures as a source: a file, a folder of them, a glob, a list."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from sdk.arrays import Pixels
from sdk.errors import SourceError
from sdk.sources.content import Kind, has_more_pictures, is_damaged_png, kind_of, shown
from sdk.sources.source import Frame, Source
from sdk.sources.state import SourceState

log = logging.getLogger("sdk.sources")

PICTURE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".jp2"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    }
)
_BARE = "without suffix"
_DARK = 8  # times darker than it could be, a picture is looked at twice
_MISSING = (64, 64)  # height and width of the black picture in the place of one that can't be read


class Pictures(Source):
    """Picture files, each decoded when its turn comes.

    Args:
        name: what messages call it.
        paths: of the files.
        on_unreadable: "raise" at one that can't be read, or "skip" it: its Frame has an ``error``.
    """

    def __init__(self, name: str, paths: Sequence[Path], on_unreadable: str = "raise") -> None:
        self.name = name
        self.total = len(paths)
        self.files = paths
        self._skip = on_unreadable == "skip"

    def __iter__(self) -> Iterator[Frame]:
        self.report(SourceState.LIVE)
        for index, path in enumerate(self.files):
            try:
                frame = Frame(read_picture(path), index, shown(path))
            except SourceError as error:
                if not self._skip:
                    raise
                black = np.zeros((*_MISSING, 3), np.uint8)
                frame = Frame(black, index, shown(path), error=str(error))
            yield frame


def of_folder(folder: Path, on_unreadable: str = "raise") -> Pictures:
    """The pictures in a folder, in natural order; the log says what else is in it.

    Raises:
        SourceError: there is none.
    """
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return Pictures(shown(folder), _chosen(entries, f"folder {shown(folder)}"), on_unreadable)


def of_glob(pattern: str, on_unreadable: str = "raise") -> Pictures:
    """The pictures whose names match, in natural order, each once whichever links lead to its folder.

    Raises:
        SourceError: there is none.
    """
    entries: dict[str, Path] = {}
    n_found = 0
    for match in glob.iglob(_with_literal_folders(pattern), recursive=True):  # noqa: PTH207 - absolute too
        n_found += 1
        folder, name = os.path.split(match)
        entries.setdefault(os.path.join(os.path.realpath(folder), name), Path(match))  # noqa: PTH118
    if n_found > len(entries):
        log.warning(
            "glob %s: %d names lead to files that were found already, through links, and are left out",
            shown(pattern),
            n_found - len(entries),
        )
    return Pictures(shown(pattern), _chosen(list(entries.values()), f"glob {shown(pattern)}"), on_unreadable)


def _with_literal_folders(pattern: str) -> str:
    """A glob in which brackets of folders that exist by that very name are no pattern."""
    folder, rest = pattern, ""
    while folder and not os.path.isdir(folder):  # noqa: PTH112 - may not be UTF-8
        folder, slash, last = folder.rpartition("/")
        rest = slash + last + rest
    return glob.escape(folder) + rest


def is_picture(name: str | os.PathLike[str]) -> bool:
    """Whether a file is a picture by its content, or by its name where that can't be told."""
    path = Path(name)
    try:
        return path.is_file() and kind_of(path) is Kind.PICTURE
    except (OSError, ValueError, SourceError):
        return path.suffix.lower() in PICTURE_SUFFIXES


def read_picture(path: Path) -> Pixels:
    """The picture in a file, (H, W, 3) uint8 BGR.

    Raises:
        SourceError: it can't be read, is no picture, or a damaged one.
    """
    try:
        data = path.read_bytes()
        # imdecode, since imread accepts a JPEG that is cut short and fills the rest with grey; a damaged PNG
        # is kept from it, since libpng would print a line of its own
        image = (
            None if is_damaged_png(data) else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        )
    except OSError as error:
        raise SourceError(f"{shown(path)}: can't be read: {error.strerror}") from None
    except cv2.error:  # an empty file, or more pixels than OpenCV allows
        image = None
    if image is None:
        raise SourceError(
            f"{shown(path)}: not a picture, or a damaged one", hint="get it again or take it out"
        )
    if has_more_pictures(data):
        log.warning("%s: holds several pictures; the first is taken", shown(path))
    if image.max() < 256 // _DARK and (n_bits := _used_of_16_bits(data)):
        log.warning(
            "%s: 16 bits a value, of which %d are used: it is almost black; scale it first",
            shown(path),
            n_bits,
        )
    return image  # type: ignore[no-any-return]


def _used_of_16_bits(data: bytes) -> int | None:
    """How many bits the values of a dark picture of 16 bits take; None where it is another picture."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.max() < _DARK:
        return None
    return int(values.max()).bit_length()


def _chosen(entries: Sequence[Path], where: str) -> list[Path]:
    """The pictures among ``entries``, by their suffix, in natural order; says what is left out.

    Raises:
        SourceError: there is none.
    """
    paths = [entry for entry in entries if entry.suffix.lower() in PICTURE_SUFFIXES and entry.is_file()]
    chosen = set(paths)
    others = _kinds([entry for entry in entries if entry not in chosen])
    kinds = " ".join(sorted(suffix[1:] for suffix in PICTURE_SUFFIXES))
    if not paths:
        found = f", but {others}" if others else ""
        raise SourceError(
            f"{where}: no picture in it{found}",
            hint=f"expected files of the kinds {kinds}; give videos by their names, or in a list",
        )
    if others:
        log.warning("%s: %d pictures; left out: %s", where, len(paths), others)
    return sorted(paths, key=lambda entry: _natural(str(entry)))


def _kinds(entries: Sequence[Path]) -> str:
    """Entries by kind, such as ``2 .mp4, 1 folder``; empty for none."""
    counts = Counter(_kind_of_entry(entry) for entry in entries)
    kinds = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(
        f"{n} {kind}{'s' * (n > 1 and not kind.startswith('.') and kind != _BARE)}" for kind, n in kinds
    )


def _kind_of_entry(entry: Path) -> str:
    if entry.is_dir():
        return "folder"
    return "broken link" if not entry.exists() else entry.suffix.lower() or _BARE


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts frame-9 before frame-10."""
    parts = re.split(r"(\d+)", name)  # text and numbers take turns, so like is compared with like
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name
