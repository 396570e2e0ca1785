"""Class folders: pictures on disk, one folder for each class, decoded when they are asked for.

Images are cropped and resized by the runtime's own function: training sees what a deployed engine will see.
Threads decode, since OpenCV releases Python's lock, so no image is copied between processes. The EXIF
orientation is applied. Where all pictures fit into a small part of the memory, each is decoded once.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdk.arrays import Pixels
from sdk.errors import SourceError
from sdk.host.cpus import available_cpus
from sdk.preprocess import resize
from sdk.sources.opencv import quiet_opencv
from sdk.sources.pictures import read_picture
from trainer.data.class_folders import find_classes
from trainer.data.dataset import DataError, DataSet, Images, Rows
from trainer.data.generators import keyed_generator

BATCHES_AHEAD = 2  # decoded while the trainer works on one; more only takes memory
TRAIN_SHARE = 0.8
KEPT_BYTES = 2**30  # of decoded pictures, and no more than MEMORY_SHARE of what the machine has
MEMORY_SHARE = 1 / 8


def open_folders(
    folder: Path,
    split: str,
    image_size: tuple[int, int],
    *,
    classes: Sequence[str] | None = None,
    train_share: float = TRAIN_SHARE,
) -> ImageFolders:
    """The class folders in ``folder``: lists the files, decodes none.

    Without a folder for each split, a hash of each file's name decides which split it belongs to, so that a
    picture stays there when others are added. Test images are in a random order that is always the same: the
    first of them hold every class.

    Args:
        folder: holds ``train/CLASS/…`` and ``test/CLASS/…`` (or ``val``), or a folder ``imagenet`` that does,
            or ``CLASS/…``.
        split: "train" or "test".
        image_size: height and width in pixels that images are cropped and resized to.
        classes: the class names in the order of the logits; without them the folders' names, sorted. Folders
            may be named by the classes or by their numbers.
        train_share: share of the pictures that are training images, in (0, 1), where no folders split them.

    Raises:
        DataError: no class folder; a class is empty, or isn't one of ``classes`` or of the training images.
    """
    quiet_opencv()
    paths: list[Path] = []
    targets: list[int] = []
    root, found, labels = find_classes(folder, split, classes, train_share)
    for entry in found:
        paths += entry.pictures
        targets += [entry.target] * len(entry.pictures)
    kept = Decoded.of(len(paths), image_size)
    places = torch.arange(len(paths))
    images = ImageFolders(
        root, _relative(paths, root), torch.tensor(targets), labels, image_size, places, kept
    )
    if split == "train":
        return images
    return images.subset(torch.randperm(len(images), generator=keyed_generator("test order", len(images))))


def _relative(paths: Iterable[Path], root: Path) -> tuple[str, ...]:
    return tuple(path.relative_to(root).as_posix() for path in paths)


class Decoded:
    """Pictures that were decoded before: ``pixels`` (N, 3, H, W), those at ``known`` (N,) filled.

    Threads fill it, each a picture of its own; the pixels are there before they are known.
    """

    def __init__(self, count: int, image_size: tuple[int, int]) -> None:
        self.pixels = np.empty((count, 3, *image_size), np.uint8)
        self.known = np.zeros(count, np.bool_)

    @classmethod
    def of(cls, count: int, image_size: tuple[int, int]) -> Decoded | None:
        """Room for ``count`` pictures; None where they would take too much."""
        return cls(count, image_size) if fits_memory(count, image_size) else None


def fits_memory(count: int, image_size: tuple[int, int]) -> bool:
    """Whether so many decoded pictures are few enough to be kept."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on every system
        memory = 8 * KEPT_BYTES
    return count * 3 * math.prod(image_size) <= min(KEPT_BYTES, MEMORY_SHARE * memory)


@dataclass(frozen=True)
class ImageFolders(DataSet):
    """Pictures on disk; ``paths`` are relative to ``root``, one for each target.

    ``places`` int64 (N,) are those of the pictures in ``decoded``, which subsets share.
    """

    root: Path
    paths: tuple[str, ...]
    targets: Tensor
    labels: tuple[str, ...]
    image_size: tuple[int, int]
    places: Tensor
    decoded: Decoded | None = None
    threads: int = field(default_factory=available_cpus)

    def __getitem__(self, rows: Rows) -> Images:
        return next(self.stream([torch.arange(len(self))[rows]]))

    def subset(self, rows: Rows) -> ImageFolders:
        kept = torch.arange(len(self))[rows]
        return replace(
            self,
            paths=tuple(self.paths[row] for row in kept.tolist()),
            targets=self.targets[kept],
            places=self.places[kept],
        )

    @property
    def in_memory(self) -> Images | None:
        """All pictures decoded; None where they are too many to be kept."""
        return None if self.decoded is None else self[slice(None)]

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
        pixels, places = np.empty((len(rows), 3, *self.image_size), np.uint8), self.places[rows].numpy()
        missing = np.ones(len(rows), np.bool_)
        if self.decoded is not None:
            missing = ~self.decoded.known[places]
            pixels[~missing] = self.decoded.pixels[places[~missing]]
        decoding = [
            pool.submit(self._decode_into, pixels[place], int(places[place]), self.root / self.paths[row])
            for place, row in enumerate(rows.tolist())
            if missing[place]
        ]
        return Images(torch.from_numpy(pixels), self.targets[rows], self.labels), decoding

    def _decode_into(self, image: npt.NDArray[np.uint8], place: int, path: Path) -> None:
        """Write the picture at ``path`` to ``image``, (3, H, W) RGB, and keep it."""
        pixels = resize(_decoded(path), *self.image_size)
        image[:] = pixels.transpose(2, 0, 1)[::-1]
        if self.decoded is not None:
            self.decoded.pixels[place] = image
            self.decoded.known[place] = True


def _finished(images: Images, decoding: list[Future[None]]) -> Images:
    for future in decoding:
        future.result()
    return images


def _decoded(path: Path) -> Pixels:
    """The picture, (H, W, 3) BGR."""
    try:
        return read_picture(path)
    except SourceError as error:
        raise DataError(error.what, hint=error.hint) from None
