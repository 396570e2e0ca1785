"""Interface of data sets, the kind that is held in memory, and the validation split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from sdk.errors import EdgePurifyError
from trainer.data.generators import keyed_generator

Rows = slice | Tensor
AnyDataSet = TypeVar("AnyDataSet", bound="DataSet")


class DataError(EdgePurifyError):
    """A data set is absent, damaged, or can't be fetched."""


class DataSet(ABC):
    """Labelled images of one size.

    Attributes:
        targets: int64 (N,), an index into ``labels`` for every image.
        labels: class names.
        groups: int64 (N,), where images are not independent: a group, such as the frames of a video, is not
            split.
    """

    targets: Tensor
    labels: tuple[str, ...]
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def __getitem__(self, rows: Rows) -> Images:
        """The images of ``rows``, in memory.

        Raises:
            DataError: one of them is damaged.
        """

    @abstractmethod
    def subset(self: AnyDataSet, rows: Rows) -> AnyDataSet:
        """A data set of ``rows`` alone; reads no image."""

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Images]:
        """``self[rows]`` for each ``rows`` of ``batches``, in order."""
        for rows in batches:
            yield self[rows]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """In order: float32 images (B, 3, H, W) in [0, 1] and their labels."""
        rows = (torch.arange(i, min(i + size, len(self))) for i in range(0, len(self), size))
        for batch in self.stream(rows):
            yield batch.pixels.float() / 255, batch.targets


@dataclass(frozen=True)
class Images(DataSet):
    """Images and labels in memory: ``pixels`` uint8 (N, 3, H, W) RGB, ``targets`` int64 (N,)."""

    pixels: Tensor
    targets: Tensor
    labels: tuple[str, ...]
    groups: Tensor | None = None

    def __getitem__(self, rows: Rows) -> Images:
        groups = None if self.groups is None else self.groups[rows]
        return Images(self.pixels[rows], self.targets[rows], self.labels, groups)

    def subset(self, rows: Rows) -> Images:
        return self[rows]


def split_validation(images: AnyDataSet, count: int) -> tuple[AnyDataSet, AnyDataSet]:
    """(training, validation): ``count`` images, chosen by a permutation that is the same for every run.

    Of images in groups, whole groups are chosen, in random order, until there are at least ``count`` images.

    Raises:
        DataError: ``count`` leaves nothing to train on.
    """
    if count >= len(images):
        raise DataError(
            f"data.validation: expected fewer than the {len(images)} training images, got {count}"
        )
    if images.groups is not None:
        held = _rows_of_random_groups(images.groups, count)
        if bool(held.all()):
            raise DataError(
                f"data.validation: {count} images in whole groups leave none of {len(images)} to train on",
                hint="lower it",
            )
        return images.subset((~held).nonzero().squeeze(1)), images.subset(held.nonzero().squeeze(1))
    order = torch.randperm(len(images), generator=keyed_generator("validation split", len(images)))
    return images.subset(order[count:]), images.subset(order[:count])


def _rows_of_random_groups(groups: Tensor, count: int) -> Tensor:
    """Bool (N,): the images of the fewest groups, in a fixed random order, that have ``count`` images."""
    values, group = torch.unique(groups, return_inverse=True)
    order = torch.randperm(len(values), generator=keyed_generator("validation split", len(values)))
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(values))
    sizes = torch.bincount(rank[group], minlength=len(values)).cumsum(0)
    return rank[group] <= int((sizes < count).sum())
