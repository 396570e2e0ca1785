"""Image folders as ImageNet is laid out, one folder for each class, decoded as they are asked for.

Images are cropped and resized by the runtime's own function: training sees what a deployed engine will see.
OpenCV decodes without Python's lock, so threads keep every core busy and no image crosses between processes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdk.errors import SourceError
from sdk.host.cpus import available_cpus
from sdk.preprocess import resize
from sdk.sources.opencv import quiet_opencv
from sdk.sources.pictures import PICTURE_SUFFIXES, read_picture
from trainer.data.dataset import DataError, DataSet, Images, Rows
from trainer.data.generators import keyed_generator

BATCHES_AHEAD = 2  # decoded while the trainer works on one; more only takes memory

# ImageNet publishes no labels of its test images, so its validation images are what everyone tests on
_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
_NAME = "imagenet"


def open_folders(folder: Path, split: str, image_size: int) -> ImageFolders:
    """The class folders in ``folder``: lists the files, decodes none.

    The test images are in an order that is random, and always the same: who evaluates on the first of them
    sees every class.

    Args:
        folder: holds ``train/CLASS/…`` and ``test/CLASS/…`` (or ``val``), or a folder ``imagenet`` that does.
        split: "train" or "test".
        image_size: height and width in pixels that images are cropped and resized to.

    Raises:
        DataError: no such folder; something in it is no folder of a class, or in a class no picture; a class
            is empty; or the test images have a class that the training images lack.
    """
    quiet_opencv()
    root = _root(folder, split)
    if root is None:
        wanted = " or ".join(f"{_NAME}/{name}/CLASS/*.jpg" for name in _SPLIT_FOLDERS[split])
        raise DataError(
            f"no image folders in {folder}: expected {wanted} there, one folder for each class; "
            "ImageNet itself is to be had at https://image-net.org, after signing in"
        )
    labels = classes = _classes(root)
    if split == "test" and (training := _root(folder, "train")) is not None:
        labels = _classes(training)
        if unknown := sorted(set(classes) - set(labels)):
            raise DataError(f"{root / unknown[0]}: a class that {training} lacks; rename it or take it out")
    paths: list[str] = []
    targets: list[int] = []
    for name in classes:
        pictures = _pictures(root / name)
        paths += (f"{name}/{picture}" for picture in pictures)
        targets += [labels.index(name)] * len(pictures)
    found = ImageFolders(root, tuple(paths), torch.tensor(targets), labels, image_size)
    if split == "train":
        return found
    return found.subset(torch.randperm(len(found), generator=keyed_generator("test order", len(found))))


@dataclass(frozen=True)
class ImageFolders(DataSet):
    """Pictures on disk; ``paths`` are relative to ``root``, one for each target."""

    root: Path
    paths: tuple[str, ...]
    targets: Tensor
    labels: tuple[str, ...]
    image_size: int
    threads: int = field(default_factory=available_cpus)

    def __getitem__(self, rows: Rows) -> Images:
        return next(self.stream([torch.arange(len(self))[rows]]))

    def subset(self, rows: Rows) -> ImageFolders:
        kept = torch.arange(len(self))[rows]
        return replace(
            self, paths=tuple(self.paths[row] for row in kept.tolist()), targets=self.targets[kept]
        )

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Images]:
        """``self[rows]`` for each ``rows`` of ``batches``, the next ones decoded while one is in use."""
        ahead: deque[tuple[Images, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(self.threads, "decode") as pool:
            try:
                for rows in batches:
                    ahead.append(self._begin(rows, pool))
                    if len(ahead) > BATCHES_AHEAD:
                        yield _finished(*ahead.popleft())
                while ahead:
                    yield _finished(*ahead.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _begin(self, rows: Tensor, pool: ThreadPoolExecutor) -> tuple[Images, list[Future[None]]]:
        pixels = torch.empty((len(rows), 3, self.image_size, self.image_size), dtype=torch.uint8)
        decoding = [
            pool.submit(self._decode_into, image, self.root / self.paths[row])
            for image, row in zip(pixels.numpy(), rows.tolist(), strict=True)
        ]
        return Images(pixels, self.targets[rows], self.labels), decoding

    def _decode_into(self, image: npt.NDArray[np.uint8], path: Path) -> None:
        """Write the picture at ``path`` to ``image``, (3, H, W) RGB."""
        pixels = resize(_decoded(path), self.image_size, self.image_size)
        image[:] = pixels.transpose(2, 0, 1)[::-1]


def _finished(images: Images, decoding: list[Future[None]]) -> Images:
    for future in decoding:
        future.result()
    return images


def _decoded(path: Path) -> npt.NDArray[np.uint8]:
    """The picture, (H, W, 3) BGR."""
    try:
        return read_picture(path)
    except SourceError as error:
        raise DataError(str(error)) from None


def _root(folder: Path, split: str) -> Path | None:
    roots = (base / name for base in (folder / _NAME, folder) for name in _SPLIT_FOLDERS[split])
    return next((root for root in roots if root.is_dir()), None)


def _classes(root: Path) -> tuple[str, ...]:
    """The class folders' names in order; their position is the label's index."""
    entries = _entries(root)
    for entry in entries:
        if not entry.is_dir():
            raise DataError(f"{entry.path}: expected only folders, one for each class; take it out")
    if not entries:
        raise DataError(f"{root}: expected folders, one for each class, found none")
    return tuple(entry.name for entry in entries)


def _pictures(folder: Path) -> list[str]:
    entries = _entries(folder)
    for entry in entries:
        if not entry.is_file() or os.path.splitext(entry.name)[1].lower() not in PICTURE_SUFFIXES:  # noqa: PTH122
            kinds = " ".join(sorted(suffix[1:] for suffix in PICTURE_SUFFIXES))
            raise DataError(f"{entry.path}: not a picture; expected files of the kinds {kinds}; take it out")
    if not entries:
        raise DataError(f"{folder}: no picture of this class; add some or remove the folder")
    return [entry.name for entry in entries]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: can't be read: {error.strerror}") from None
