"""Find class folders and the pictures in them; leave out what is neither, and say so once."""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdk.sources.pictures import PICTURE_SUFFIXES
from trainer.data.dataset import DataError

# ImageNet publishes no labels of its test images, so its validation images are what everyone tests on
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
NAME = "imagenet"
# Left by file managers, archives, notebooks and network drives; so is all that begins with a full stop.
JUNK_FOLDERS = frozenset({"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
MAX_NAMED = 5  # of the entries left out

log = logging.getLogger(__name__)
_named: set[str] = set()  # what was said already: a command opens its pictures several times


@dataclass(frozen=True)
class ClassFolder:
    """One class: its index and the paths of its pictures, sorted by name."""

    path: Path
    target: int
    pictures: tuple[Path, ...]


def find_classes(
    folder: Path, split: str, classes: Sequence[str] | None, train_share: float
) -> tuple[Path, list[ClassFolder], tuple[str, ...]]:
    """The folder that holds the class folders of ``split``, these, and the class names in logit order.

    Args: as ``trainer.data.folders.open_folders``.

    Raises:
        DataError: see there.
    """
    root, is_split = _root(folder, split)
    left_out: list[Path] = []
    found = _class_folders(root, left_out)
    labels = _labels(folder, found, classes)
    entries = []
    for path in found:
        pictures = _pictures(path, left_out)
        if not is_split:
            pictures = _part_of(pictures, split, train_share)
        entries.append(ClassFolder(path, _target(path, labels, classes is not None), pictures))
    _report(root, left_out)
    if not any(entry.pictures for entry in entries):
        raise DataError(f"{root}: no {split} picture", hint="add pictures, or change data.train_share")
    return root, sorted(entries, key=lambda entry: entry.target), labels


def _root(folder: Path, split: str) -> tuple[Path, bool]:
    """Where the class folders are, and whether this folder holds those of ``split`` alone."""
    bases = (folder / NAME, folder)
    for base in bases:
        for name in SPLIT_FOLDERS[split]:
            if _is_split_folder(base / name):
                return base / name, True
    splits = [base / name for base in bases for names in SPLIT_FOLDERS.values() for name in names]
    if folder.is_dir() and not any(map(_is_split_folder, splits)) and any(map(_is_class, _entries(folder))):
        return folder, False
    wanted = " or ".join(f"{NAME}/{name}/CLASS/*.jpg" for name in SPLIT_FOLDERS[split])
    raise DataError(
        f"no image folders in {folder}: expected {wanted} there, or CLASS/*.jpg, one folder for each class",
        hint="ImageNet itself is to be had at https://image-net.org, after signing in",
    )


def _is_split_folder(path: Path) -> bool:
    """Not a class of that name, such as pictures of trains: those have no class folders in them."""
    return path.is_dir() and any(map(_is_class, _entries(path)))


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and path.name not in JUNK_FOLDERS


def _class_folders(root: Path, left_out: list[Path]) -> list[Path]:
    entries = _entries(root)
    found = [entry for entry in entries if _is_class(entry)]
    left_out += [entry for entry in entries if not _is_class(entry)]
    if not found:
        raise DataError(f"{root}: expected folders, one for each class, found none")
    return found


def _pictures(folder: Path, left_out: list[Path]) -> tuple[Path, ...]:
    entries = _entries(folder)
    chosen = [entry for entry in entries if _is_picture(entry)]
    left_out += [entry for entry in entries if not _is_picture(entry)]
    if not chosen:
        kinds = " ".join(sorted(suffix[1:] for suffix in PICTURE_SUFFIXES))
        raise DataError(
            f"{folder}: no picture of this class; expected files of the kinds {kinds}",
            hint="add some or remove the folder",
        )
    return tuple(chosen)


def _is_picture(path: Path) -> bool:
    """By its suffix; macOS's companion of a picture has the picture's name after '._'."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _labels(folder: Path, found: Sequence[Path], classes: Sequence[str] | None) -> tuple[str, ...]:
    """``classes`` if given; otherwise the names of the training images' folders."""
    if classes is not None:
        return tuple(classes)
    training = next(
        (base / "train" for base in (folder / NAME, folder) if _is_split_folder(base / "train")), None
    )
    if training is None:
        return tuple(path.name for path in found)
    labels = tuple(path.name for path in _class_folders(training, []))
    if unknown := [path for path in found if path.name not in labels]:
        raise DataError(f"{unknown[0]}: a class that {training} lacks", hint="rename it or take it out")
    return labels


def _target(path: Path, labels: tuple[str, ...], is_given: bool) -> int:
    """The class's index: by its name, or, where the order of classes is given, also by its number."""
    places = [place for place, label in enumerate(labels) if _normalized(label) == _normalized(path.name)]
    if len(places) == 1:
        return places[0]
    if is_given and path.name.isdecimal() and int(path.name) < len(labels):
        return int(path.name)
    what = "a class that data.classes lacks" if not places else "a name that several classes have"
    raise DataError(
        f"{path}: {what}",
        hint=f"expected the name of a class, such as {labels[0]!r}, or a number from 0 to {len(labels) - 1}",
    )


def _normalized(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _part_of(pictures: tuple[Path, ...], split: str, train_share: float) -> tuple[Path, ...]:
    """The pictures of ``split``: each by a hash of its own name; a class always has a training picture."""
    ranks = {path: _rank(path) for path in pictures}
    first = min(pictures, key=lambda path: (ranks[path], path.name))
    training = {path for path in pictures if ranks[path] < train_share} | {first}
    return tuple(path for path in pictures if (path in training) == (split == "train"))


def _rank(path: Path) -> float:
    """Uniform in [0, 1) over names."""
    name = unicodedata.normalize("NFC", path.name)  # macOS decomposes accents
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def _report(root: Path, left_out: list[Path]) -> None:
    if not left_out:
        return
    names = ", ".join(str(path.relative_to(root)) for path in left_out[:MAX_NAMED])
    more = f" and {len(left_out) - MAX_NAMED} more" if len(left_out) > MAX_NAMED else ""
    said = f"{root}: left out, no class or no picture: {names}{more}"
    if said not in _named:
        _named.add(said)
        log.warning("%s", said)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder}: can't be read: {error.strerror}") from None
