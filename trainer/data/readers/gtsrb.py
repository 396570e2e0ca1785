"""German Traffic Sign Recognition Benchmark (Stallkamp et al., Neural Networks 32, 2012), cropped to signs.

Two layouts are read: the benchmark's own, whose ``GT-*.csv`` give each sign's box, and class folders of
pictures that are cropped already, ``train/NN/*.jpg`` and ``test/NN/*.jpg``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sdk.arrays import Pixels
from sdk.errors import SourceError
from sdk.preprocess import resize
from sdk.sources.pictures import read_picture
from trainer.data.dataset import DataError, Images
from trainer.data.generators import keyed_generator

GTSRB_LABELS = (
    "speed limit 20", "speed limit 30", "speed limit 50", "speed limit 60", "speed limit 70",
    "speed limit 80", "end of speed limit 80", "speed limit 100", "speed limit 120", "no passing",
    "no passing for trucks", "right of way at next intersection", "priority road", "yield", "stop",
    "no vehicles", "no trucks", "no entry", "general caution", "dangerous curve left",
    "dangerous curve right", "double curve", "bumpy road", "slippery road", "road narrows on the right",
    "road work", "traffic signals", "pedestrians", "children crossing", "bicycles crossing",
    "beware of ice or snow", "wild animals crossing", "end of all limits", "turn right ahead",
    "turn left ahead", "ahead only", "go straight or right", "go straight or left", "keep right",
    "keep left", "roundabout", "end of no passing", "end of no passing for trucks",
)  # fmt: skip

MARGIN = 0.1  # of the sign's box, kept around it on every side
TRACKS = 100_000  # more than any class has
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm")
_OWN_FOLDERS = {"train": ("Final_Training/Images", "Training"), "test": ("Final_Test/Images",)}
_TEST_LABELS = "GT-final_test.csv"
_HINT = (
    "unpack GTSRB_Final_Training_Images.zip, GTSRB_Final_Test_Images.zip and GTSRB_Final_Test_GT.zip of "
    "https://benchmark.ini.rub.de there"
)


@dataclass(frozen=True)
class _Sign:
    """A picture of one sign; ``box`` is its rows and columns, None for all of it."""

    path: Path
    target: int
    box: tuple[slice, slice] | None = None


def read_gtsrb(folder: Path, split: str, image_size: tuple[int, int] = (32, 32)) -> Images:
    """GTSRB in memory, (N, 3, *image_size), by class and then by file name.

    A training image's group is its track, the pictures that were taken of one real sign, so that
    ``split_validation`` keeps them together. Test images are in a random order that is always the same: the
    first of them hold every class.

    Args:
        folder: holds the benchmark's ``Final_Training`` and ``Final_Test``, or ``train`` and ``test``; or a
            folder ``GTSRB`` or ``gtsrb`` that does.
        split: "train" or "test".
        image_size: height and width in pixels.

    Raises:
        DataError: neither layout is there, a class has no picture, or a file is damaged or has another name.
    """
    signs = _signs(folder, split)
    pixels = np.empty((len(signs), 3, *image_size), np.uint8)
    for image, sign in zip(pixels, signs, strict=True):
        image[:] = resize(_cropped(sign), *image_size).transpose(2, 0, 1)[::-1]
    groups = torch.tensor([_track(sign) for sign in signs]) if split == "train" else None
    images = Images(
        torch.from_numpy(pixels), torch.tensor([sign.target for sign in signs]), GTSRB_LABELS, groups
    )
    if split == "train":
        return images
    return images[torch.randperm(len(images), generator=keyed_generator("test order", len(images)))]


def _signs(folder: Path, split: str) -> list[_Sign]:
    for root in (folder, folder / "GTSRB", folder / "gtsrb"):
        for name in _OWN_FOLDERS[split]:
            if (root / name).is_dir():
                own = _training_signs if split == "train" else _test_signs
                return own(root, root / name)
        if (root / split / "00").is_dir():
            return _cropped_signs(root / split)
    wanted = f"{' or '.join(_OWN_FOLDERS[split])}, or {split}/00 to {split}/{len(GTSRB_LABELS) - 1}"
    raise DataError(f"no GTSRB in {folder}: expected {wanted}", hint=_HINT)


def _cropped_signs(root: Path) -> list[_Sign]:
    signs: list[_Sign] = []
    for target in range(len(GTSRB_LABELS)):
        folder = root / f"{target:02d}"
        paths = sorted(path for path in _entries(folder) if path.suffix.lower() in _SUFFIXES)
        if not paths:
            raise DataError(f"{folder}: no picture of this class", hint="unpack the data set again")
        signs += (_Sign(path, target) for path in paths)
    return signs


def _training_signs(root: Path, images: Path) -> list[_Sign]:
    signs: list[_Sign] = []
    for target in range(len(GTSRB_LABELS)):
        folder = images / f"{target:05d}"
        signs += sorted(_listed(folder / f"GT-{target:05d}.csv", folder), key=lambda sign: sign.path.name)
    return signs


def _test_signs(root: Path, images: Path) -> list[_Sign]:
    places = (images / _TEST_LABELS, images.parent / _TEST_LABELS, root / _TEST_LABELS)
    table = next((place for place in places if place.is_file()), None)
    if table is None:
        raise DataError(f"{images}: expected {_TEST_LABELS}, which has the classes, in it", hint=_HINT)
    return sorted(_listed(table, images), key=lambda sign: (sign.target, sign.path.name))


def _listed(table: Path, folder: Path) -> Iterator[_Sign]:
    """The signs of a ``GT-*.csv``, whose pictures lie in ``folder``."""
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter=";"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{table}: can't be read: {reason}", hint=_HINT) from None
    if not rows:
        raise DataError(f"{table}: no sign in it", hint=_HINT)
    for number, row in enumerate(rows, start=2):
        try:
            left, top, right, bottom = (int(row[f"Roi.{side}"]) for side in ("X1", "Y1", "X2", "Y2"))
            name, target = row["Filename"], int(row["ClassId"])
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{table}: line {number}: expected Filename, Roi.X1, Roi.Y1, Roi.X2, Roi.Y2 and ClassId",
                hint=_HINT,
            ) from None
        if not (0 <= target < len(GTSRB_LABELS) and 0 <= left < right and 0 <= top < bottom):
            raise DataError(f"{table}: line {number}: an impossible box or class", hint=_HINT)
        if Path(name).name != name:
            raise DataError(f"{table}: line {number}: expected a file's name, got {name!r}", hint=_HINT)
        yield _Sign(folder / name, target, (_widened(top, bottom), _widened(left, right)))


def _widened(first: int, last: int) -> slice:
    margin = round(MARGIN * (last - first + 1))
    return slice(max(0, first - margin), last + 1 + margin)


def _cropped(sign: _Sign) -> Pixels:
    try:
        picture = read_picture(sign.path)
    except SourceError as error:
        raise DataError(error.what, hint=error.hint) from None
    cut = picture if sign.box is None else picture[sign.box]
    if not cut.size:
        raise DataError(f"{sign.path}: the sign's box lies outside of the picture", hint=_HINT)
    return np.ascontiguousarray(cut)


def _track(sign: _Sign) -> int:
    """Number of the track, by the first part of the name: TRACK_FRAME."""
    track, _, frame = sign.path.stem.partition("_")
    if not (track.isdecimal() and frame.isdecimal() and int(track) < TRACKS):
        raise DataError(
            f"{sign.path}: expected a name TRACK_FRAME, for example 00012_00003{sign.path.suffix}",
            hint="the validation images are chosen by track",
        )
    return sign.target * TRACKS + int(track)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: can't be read: {error.strerror}", hint=_HINT) from None
