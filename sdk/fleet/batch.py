"""A batch: every picture of an input through a pool of Purifiers by Ray Data, into Parquet files.

Each picture has exactly one record in the output, whichever processes are lost on the way: Ray does again
what a lost process had under way, and what arrives here is written once. A batch that was stopped goes on
with the pictures that have no record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from sdk.fleet import cluster
from sdk.fleet.inputs import Found, Item, find
from sdk.fleet.parts import Done, Parts
from sdk.fleet.setup import Setup
from sdk.fleet.worker import Worker
from sdk.sinks.record import Record

FLUSH_S = 60.0
ITEMS = 16  # that a process takes at a time
MAX_ERRORS = 20  # that are kept for the summary


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        inputs: see ``inputs.find``.
        output: folder of the Parquet files.
        setup: of the Purifiers.
        column: of the encoded pictures in a Parquet input.
        workers: Purifiers at work, each on one CPU; None for as many as the cluster has CPUs.
        address: of a Ray cluster; None starts one on this machine.
    """

    inputs: Sequence[str]
    output: Path
    setup: Setup = field(default_factory=Setup)
    column: str = "image"
    workers: int | None = None
    address: str | None = None


@dataclass
class Summary:
    """What became of a batch's pictures.

    Attributes:
        pictures: of the input.
        before: of these, on record from earlier runs.
        labelled, unsure, failed: of those done now.
        errors: the first failures, in a sentence each.
        left_out: files that are no input, by name, with the reason.
        seconds: of work, without the start of Ray.
    """

    pictures: int
    before: int
    left_out: dict[str, str]
    errors: list[str]
    labelled: int = 0
    unsure: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def done(self) -> int:
        return self.labelled + self.unsure + self.failed

    def add(self, record: Record) -> None:
        if record.label is None:
            self.failed += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(str(record.error))
        elif record.accepted:
            self.labelled += 1
        else:
            self.unsure += 1


def run(
    job: Job,
    *,
    on_start: Callable[[Summary], None] = lambda summary: None,
    on_record: Callable[[Record], None] = lambda record: None,
) -> Summary:
    """Do the batch, or what is left of it.

    Args:
        on_start: told what there is to do.
        on_record: told of every record.

    Raises:
        EdgePurifyError: the input, bundle, output or cluster can't be had; what was written is kept.
    """
    cluster.require("pyarrow")
    setup = job.setup.absolute()
    setup.open_bundle()  # a mistake in it is told before Ray is started
    parts = Parts(job.output)
    found = find(job.inputs, job.column)
    items, rows_done, before = _left(found, parts.done())
    summary = Summary(found.rows, before, found.left_out, [])
    on_start(summary)
    if items:
        with cluster.open_cluster(job.address) as ray:
            _work(ray, replace(job, setup=setup), items, rows_done, parts, summary, on_record)
    return summary


def _work(
    ray: Any,
    job: Job,
    items: Sequence[Item],
    rows_done: dict[tuple[str, int], frozenset[int]],
    parts: Parts,
    summary: Summary,
    on_record: Callable[[Record], None],
) -> None:
    begun = flushed = time.monotonic()
    try:
        for record in _records(ray, job, items, rows_done):
            parts.add(record)
            summary.add(record)
            on_record(record)
            if time.monotonic() - flushed > FLUSH_S:
                parts.flush()
                flushed = time.monotonic()
    finally:
        parts.flush()
        summary.seconds = time.monotonic() - begun


def _records(
    ray: Any, job: Job, items: Sequence[Item], rows_done: dict[tuple[str, int], frozenset[int]]
) -> Any:
    """The records as they are made, in any order.

    Raises:
        ClusterError: Ray gave up.
    """
    from ray.data import ActorPoolStrategy, DataContext
    from ray.exceptions import RayError

    context = DataContext.get_current()
    cluster.silence()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    cpus = int(ray.cluster_resources().get("CPU", 1))
    workers = min(job.workers or cpus, len(items))
    n_blocks = min(len(items), max(4 * workers, -(-len(items) // 1000)))
    rows = [{"item": msgspec.json.encode(item)} for item in items]
    records = ray.data.from_items(rows, override_num_blocks=n_blocks).map_batches(
        Worker,
        fn_constructor_args=(job.setup, job.column, rows_done),
        batch_size=ITEMS,
        batch_format="numpy",
        compute=ActorPoolStrategy(size=workers),
        num_cpus=1,
        runtime_env={"env_vars": cluster.worker_variables()},
    )
    cluster.silence()
    try:
        for row in records.iter_rows():
            yield msgspec.json.decode(row["record"], type=Record)
    except RayError as error:
        raise cluster.ClusterError(
            f"Ray gave up: {cluster.one_line(error)}", hint="the same command goes on from where it stopped"
        ) from None


def _left(found: Found, done: Done) -> tuple[list[Item], dict[tuple[str, int], frozenset[int]], int]:
    """Items that aren't wholly on record, the rows of them that are, and how many pictures are."""
    items: list[Item] = []
    rows_done: dict[tuple[str, int], frozenset[int]] = {}
    before = 0
    pictures = {source for source, _ in done}
    for item in found.items:
        if item.group is None:
            here = frozenset({0}) if item.source in pictures else frozenset()
        else:
            here = frozenset(row for row in range(item.rows) if (item.source, item.frame + row) in done)
        before += len(here)
        if len(here) == item.rows:
            continue
        items.append(item)
        if here and item.group is not None:
            rows_done[item.source, item.group] = here
    return items, rows_done, before
