"""Regions of one frame: ``Purifier.batch`` against as many single calls, taking turns in one run.

    python benchmarks/regions.py [--bundle DIR] [--regions 16] [--rounds 60] [--gate]

Prints the ratio of their median times on one core and on two. With ``--gate``, exits with 3 if the regions
take more than 0.6 of the single calls on two cores, or more than 0.95 on one. Only a quiet machine's figures
count.
"""

from __future__ import annotations

import os
import sys
from statistics import median
from time import perf_counter

import click
import numpy as np

from sdk import EdgePurifyError, Purifier, Roi
from sdk.arrays import Pixels

BOUNDS = {1: 0.95, 2: 0.6}  # by number of cores
WIDTH, HEIGHT = 1280, 720
ROWS = 4


@click.command()
@click.option("--bundle", help="The default bundle if not given.")
@click.option("--precision", default="auto", show_default=True)
@click.option("--regions", type=click.IntRange(4), default=16, show_default=True)
@click.option("--rounds", type=click.IntRange(3), default=60, show_default=True)
@click.option("--gate", is_flag=True, help="Exit with 3 if a ratio misses its bound.")
def main(bundle: str | None, precision: str, regions: int, rounds: int, gate: bool) -> None:
    """Print the time of a batch of regions as a share of single calls' time."""
    cores = sorted(os.sched_getaffinity(0))
    frame = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    crops = [roi.crop(frame) for roi in grid(regions)]
    missed = False
    for n_cores, bound in BOUNDS.items():
        if n_cores > len(cores):
            click.echo(f"{n_cores} cores: this machine has {len(cores)}")
            continue
        os.sched_setaffinity(0, cores[:n_cores])
        try:
            singles_ms, batch_ms = measure(bundle, precision, crops, rounds)
        except EdgePurifyError as error:
            raise click.ClickException(str(error)) from None
        ratio = batch_ms / singles_ms
        missed = missed or ratio > bound
        click.echo(
            f"{n_cores} core{'s' * (n_cores > 1)}: {len(crops)} regions {batch_ms:.2f} ms, single calls "
            f"{singles_ms:.2f} ms, ratio {ratio:.3f} (bound {bound})"
        )
    if gate and missed:
        sys.exit(3)


def grid(count: int) -> list[Roi]:
    """``count`` equal regions of the frame, in rows of at most a quarter of them."""
    columns = -(-count // ROWS)
    width, height = WIDTH // columns, HEIGHT // ROWS
    return [Roi(width * (i % columns), height * (i // columns), width, height) for i in range(count)]


def measure(bundle: str | None, precision: str, crops: list[Pixels], rounds: int) -> tuple[float, float]:
    """Median milliseconds of all crops one by one, and as a batch."""
    singles: list[float] = []
    batches: list[float] = []
    with Purifier.load(bundle, backend="onnxruntime", precision=precision, keep_purified=False) as purifier:
        for measured in range(-3, rounds):  # the first three warm up
            start = perf_counter()
            for crop in crops:
                purifier(crop)
            middle = perf_counter()
            purifier.batch(crops)
            end = perf_counter()
            if measured >= 0:
                singles.append((middle - start) * 1e3)
                batches.append((end - middle) * 1e3)
    return median(singles), median(batches)


if __name__ == "__main__":
    main()
