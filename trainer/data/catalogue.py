"""Data sets by name: open, fetch and check each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import UsageError
from sdk.given import read_given_text
from trainer.config import Data
from trainer.data.dataset import DataError, DataSet, Images
from trainer.data.download.fetch import OnProgress, Published, fetch_file
from trainer.data.folders import TRAIN_SHARE, open_folders
from trainer.data.readers.cifar10 import read_cifar10
from trainer.data.readers.gtsrb import read_gtsrb
from trainer.data.readers.svhn import read_svhn
from trainer.image_size import ImageSize, height_and_width

SPLITS = ("train", "test")

_SMALL_IMAGE_SIZE = 32  # of CIFAR-10 and SVHN
_FOLDER_IMAGE_SIZE = 224  # customary on ImageNet
_CHECK_BATCH = 64


@dataclass(frozen=True)
class Contents:
    """What a check found: the number of images of each split, and of classes."""

    images: dict[str, int]
    n_classes: int


@dataclass(frozen=True)
class InMemory:
    """A published data set of small images: its reader, where it comes from, and its number of images."""

    read: Callable[[Path, str], Images]
    base_url: str
    files: tuple[Published, ...]
    images: dict[str, int]


IN_MEMORY = {
    "cifar10": InMemory(
        read=read_cifar10,
        base_url="https://www.cs.toronto.edu/~kriz",
        files=(
            Published(
                name="cifar-10-binary.tar.gz",
                md5="c32a1d4ab5d03f1284b67883e8d87530",
                gives="cifar-10-batches-bin",
                equals=("cifar-10-batches-py",),
            ),
        ),
        images={"train": 50_000, "test": 10_000},
    ),
    "svhn": InMemory(
        read=read_svhn,
        base_url="http://ufldl.stanford.edu/housenumbers",
        files=(
            Published("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", gives="svhn/train_32x32.mat"),
            Published("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", gives="svhn/test_32x32.mat"),
        ),
        images={"train": 73_257, "test": 26_032},
    ),
}
_GTSRB = "gtsrb"
FOLDERS = ("imagenet", "folders")


def names() -> tuple[str, ...]:
    """What ``data.name`` in a config, and ``edge-train data``, may say."""
    return (*IN_MEMORY, _GTSRB, *FOLDERS)


def open_dataset(
    name: str,
    folder: Path,
    split: str,
    *,
    image_size: ImageSize | None = None,
    classes: Sequence[str] | str | None = None,
    train_share: float = TRAIN_SHARE,
) -> DataSet:
    """Open the data set ``name`` in ``folder``.

    Args:
        name: "cifar10", "svhn", "gtsrb", or "folders", one folder of pictures for each class ("imagenet" is
            the same).
        folder: what ``edge-train data`` was given as ``--to``.
        split: "train" or "test".
        image_size: in pixels; by default 32, for image folders 224. Pictures and GTSRB's signs are cropped
            to its shape and resized, CIFAR-10 and SVHN have 32.
        classes: for image folders, the class names in the order of the logits, or the path of a file with
            one name a line.
        train_share: for image folders that aren't split, the share of training images.

    Raises:
        UsageError: no such data set or split, or one that doesn't come in ``image_size``; or ``classes``
            can't be read or is for image folders alone.
        DataError: the data set is absent or damaged.
    """
    if name not in names():
        raise UsageError(f"data set {name!r}: expected one of {', '.join(names())}")
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    default = _FOLDER_IMAGE_SIZE if name in FOLDERS else _SMALL_IMAGE_SIZE
    size = height_and_width(default if image_size is None else image_size)
    if min(size) < 1:
        raise UsageError(f"image_size: expected at least 1 pixel, got {image_size}")
    if name in FOLDERS:
        if isinstance(classes, str):
            classes = read_classes(Path(classes))
        return open_folders(folder, split, size, classes=classes, train_share=train_share)
    if classes is not None:
        raise UsageError(f"data.classes: {name} has its own classes", hint="leave it out")
    if name == _GTSRB:
        return read_gtsrb(folder, split, size)
    if size != height_and_width(_SMALL_IMAGE_SIZE):
        raise UsageError(
            f"image_size: the images of {name} have {_SMALL_IMAGE_SIZE} pixels a side, got {image_size}"
        )
    return IN_MEMORY[name].read(folder, split)


def open_configured(section: Data, folder: Path, split: str, *, image_size: ImageSize) -> DataSet:
    """Open the data set of a config's ``data`` section; see ``open_dataset``."""
    return open_dataset(
        section.name,
        folder,
        split,
        image_size=image_size,
        classes=section.classes,
        train_share=section.train_share,
    )


def open_as_trained(
    provenance: Mapping[str, Any],
    folder: Path,
    split: str,
    *,
    image_size: ImageSize,
    labels: Sequence[str],
    name: str | None = None,
) -> DataSet:
    """The data set that a checkpoint or bundle was trained on, classes and split as they were then.

    Args:
        provenance: of the checkpoint or bundle.
        labels: class names in the order of the logits.
        name: of another data set.

    Raises:
        UsageError: none is known; otherwise as ``open_dataset``.
        DataError: as ``open_dataset``.
    """
    section = provenance.get("config", {}).get("data", {})
    name = name or section.get("name")
    if name is None:
        raise UsageError("--dataset: what this was trained on isn't known", hint="name the data set")
    if name not in FOLDERS:
        return open_dataset(name, folder, split, image_size=image_size)
    share = section.get("train_share", TRAIN_SHARE)
    return open_dataset(name, folder, split, image_size=image_size, classes=tuple(labels), train_share=share)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one a line, in the order of the logits; a byte order mark and blank ends are dropped.

    Raises:
        UsageError: the file can't be read, has an empty line or is no UTF-8 text.
    """
    try:
        lines = read_given_text(path).rstrip().splitlines()
    except OSError as error:
        raise UsageError(f"data.classes {path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"data.classes {path}: expected UTF-8 text, one class a line") from None
    names = tuple(line.strip() for line in lines)
    if not all(names) or not names:
        raise UsageError(f"data.classes {path}: line {names.index('') + 1 if names else 1}: no class in it")
    return names


def fetch(
    name: str, to: Path, *, url: str | None = None, on_progress: OnProgress = lambda what, done, total: None
) -> None:
    """Fetch what the folder ``to`` lacks of the data set ``name``.

    Args:
        name: one of ``names()``; GTSRB and image folders can't be fetched, and are left to ``check``.
        to: the data folder; made if need be.
        url: a mirror: the address under which the published files lie, by their published names.
        on_progress: called with the file's name, bytes done, and bytes in all where the server tells.

    Raises:
        UsageError: a mirror for what can't be fetched, or no http or https address.
        DataError: no network, a server that refuses, a wrong checksum, a damaged archive, or a full disk.
    """
    if name not in IN_MEMORY:
        if url is not None:
            what = "image folders" if name in FOLDERS else name
            raise UsageError(
                f"--url {url}: {what} can't be fetched", hint=f"leave --url out to check those in {to}"
            )
        return
    published = IN_MEMORY[name]
    for file in published.files:
        fetch_file(file, url or published.base_url, to, on_progress=on_progress)


def check(name: str, folder: Path, *, on_progress: OnProgress = lambda what, done, total: None) -> Contents:
    """Read every image of the data set ``name`` in ``folder``.

    Raises:
        DataError: something is damaged, or images are missing.
    """
    images = {}
    for split in SPLITS:
        dataset = open_dataset(name, folder, split, image_size=_SMALL_IMAGE_SIZE)
        images[split] = 0
        for batch, _ in dataset.batches(_CHECK_BATCH):
            images[split] += len(batch)
            on_progress(f"{split} images", images[split], len(dataset))
    if name in IN_MEMORY and images != IN_MEMORY[name].images:
        expected = IN_MEMORY[name].images
        raise DataError(
            f"{name} in {folder}: expected {_counts(expected)}, got {_counts(images)}",
            hint=f"remove it and run 'edge-train data {name} --to {folder}'",
        )
    return Contents(images, len(dataset.labels))


def _counts(images: dict[str, int]) -> str:
    return " and ".join(f"{count} {split} images" for split, count in images.items())
