"""The global batches of an epoch, shuffled and augmented by random numbers keyed by seed and position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.config import Config
from trainer.data import DataSet, augment, keyed_generator
from trainer.data.soft_targets import OpenedTargets


class Batch(NamedTuple):
    """A global batch, augmented, and its step's generator.

    ``images`` float32 (B, 3, H, W), or (B, 6, H, W) with a bank's attacked ones; ``labels`` int64 (B,);
    ``soft_targets`` float32 (B, C) if the recipe has them.
    """

    images: Tensor
    labels: Tensor
    generator: torch.Generator
    soft_targets: Tensor | None = None


def batches(
    training: DataSet, config: Config, epoch: int, first: int, soft_targets: OpenedTargets | None
) -> Iterator[Batch]:
    """The batches of ``epoch`` from position ``first`` on; the short batch at its end is dropped.

    An epoch that ``optimizer.epoch_steps`` cuts short takes other images than the next.
    """
    seed, data, size = config.seed, config.data, config.optimizer.batch_size
    order = torch.randperm(len(training), generator=keyed_generator(seed, "order", epoch))
    positions = range(first, steps_per_epoch(len(training), config))
    rows = [order[p * size : (p + 1) * size] for p in positions]
    for position, row, batch in zip(positions, rows, training.stream(rows), strict=True):
        generator = keyed_generator(seed, "step", epoch, position)
        images = augment(
            batch.pixels,
            crop_padding=data.crop_padding,
            flip=data.flip,
            brightness=data.brightness,
            contrast=data.contrast,
            generator=generator,
        )
        soft = soft_targets.targets[row] if soft_targets is not None else None
        yield Batch(images, batch.targets, generator, soft)


def steps_per_epoch(n_images: int, config: Config) -> int:
    """How many batches of ``n_images`` training images make an epoch."""
    optimizer = config.optimizer
    whole = n_images // optimizer.batch_size
    return min(whole, optimizer.epoch_steps or whole)
