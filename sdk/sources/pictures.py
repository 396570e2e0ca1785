"""Pictures as a source: a file, a folder of them, a glob."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sdk.errors import SourceError
from sdk.sources import truncation
from sdk.sources.source import Frame, Source

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class Pictures(Source):
    """Picture files, each decoded when its turn comes; one that can't be is an error, never skipped."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name = name
        self.total = len(paths)
        self._paths = paths

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            yield Frame(read_picture(path), index, str(path))


def of_folder(folder: Path) -> Pictures:
    """The pictures in a folder, in natural order.

    Raises:
        SourceError: there is none.
    """
    paths = _pictures([entry for entry in folder.iterdir() if not entry.name.startswith(".")])
    return Pictures(str(folder), _require_pictures(paths, f"folder {folder}"))


def of_glob(pattern: str) -> Pictures:
    """The pictures whose names match, in natural order.

    Raises:
        SourceError: there is none.
    """
    paths = _pictures([Path(match) for match in glob.glob(pattern, recursive=True)])  # noqa: PTH207 - absolute too
    return Pictures(pattern, _require_pictures(paths, f"glob {pattern}"))


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """The picture in a file, (H, W, 3) uint8 BGR.

    Raises:
        SourceError: it can't be read, is no picture, or a damaged one.
    """
    try:
        data = path.read_bytes()
        # imdecode, since imread accepts a JPEG that is cut short and fills the rest with grey; a damaged PNG
        # is kept from it, since libpng would print a line of its own
        image = (
            None
            if truncation.is_damaged_png(data)
            else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        )
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from None
    except cv2.error:  # an empty file, or more pixels than OpenCV allows
        image = None
    if image is None:
        raise SourceError(f"{path}: not a picture, or a damaged one; get it again or take it out")
    return image  # type: ignore[no-any-return]


def _pictures(entries: Sequence[Path]) -> list[Path]:
    found = [entry for entry in entries if entry.suffix.lower() in PICTURE_SUFFIXES and entry.is_file()]
    return sorted(found, key=lambda entry: _natural(str(entry)))


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts frame-9 before frame-10."""
    parts = re.split(r"(\d+)", name)  # text and numbers take turns, so like is compared with like
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def _require_pictures(paths: list[Path], where: str) -> list[Path]:
    if not paths:
        kinds = " ".join(sorted(suffix[1:] for suffix in PICTURE_SUFFIXES))
        raise SourceError(f"{where}: no picture in it; expected files of the kinds {kinds}")
    return paths
