"""What two processes of torchrun take of one's time, on one core each, and whether they find the same.

    python benchmarks/two_processes.py --gate

runs the same attacks on noise images by one process on one core and by two on two, in turn, and compares both
reports. On a busy machine the share of the processor's time says what the share of the clock would be.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import sdk

BOUND = 0.58


@dataclass(frozen=True)
class Run:
    """Seconds on the clock and of all processors together, and what was found, without times."""

    wall_s: float
    cpu_s: float
    report: object


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=int, default=256, help="images that are attacked (default: %(default)s)"
    )
    parser.add_argument("--bundle", default=str(sdk.default_bundle()), help="default: the one in the package")
    parser.add_argument(
        "--gate", action="store_true", help=f"end with 3 if the clock's share is above {BOUND}"
    )
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("needs two cores")
    with TemporaryDirectory() as folder:
        place = Path(folder)
        make_images(place / "cifar-10-batches-bin", given.images)
        one = evaluate(given, place, cores[:1])
        two = evaluate(given, place, cores[:2])
    if one.report != two.report:
        raise SystemExit("two processes found something else than one")
    clock, processor = two.wall_s / one.wall_s, two.cpu_s / 2 / one.cpu_s
    print(f"one process   {one.wall_s:7.1f} s, {one.cpu_s:7.1f} s of the processor")
    print(f"two processes {two.wall_s:7.1f} s, {two.cpu_s:7.1f} s of both processors")
    print(f"share: {clock:.2f} of the clock, {processor:.2f} of the processor's time; the reports are equal")
    if given.gate and clock > BOUND:
        sys.exit(3)


def make_images(folder: Path, count: int) -> None:
    """Noise, in CIFAR-10's layout."""
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (count, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    records.tofile(folder / "test_batch.bin")


def evaluate(given: argparse.Namespace, place: Path, cores: list[int]) -> Run:
    """One evaluation on ``cores``, a process each."""
    n, out = len(cores), place / f"report-{len(cores)}.json"
    start = ["-m", "trainer.cli"]
    if n > 1:
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *start]
    options = ["--data", place, "--images", given.images, "--draws", 4, "--threads", 1]
    paths = ["--work", place / f"work-{n}", "--json", out]
    words = [sys.executable, *start, "evaluate", given.bundle, *options, *paths]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [str(word) for word in words],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    wall_s, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall_s, cpu_s, without_times(json.loads(out.read_bytes())))


def without_times(part: object) -> object:
    if isinstance(part, dict):
        return {name: without_times(value) for name, value in part.items() if name != "seconds"}
    return [without_times(each) for each in part] if isinstance(part, list) else part


if __name__ == "__main__":
    main()
