"""Engines that take the same number of images at a time, and the buffers on the GPU that they share.

*Not executed on a GPU*: its calls are tested against strict fakes, see ``sdk.backends.tensorrt``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

from sdk.backends.cuda import Array
from sdk.backends.interface import Inference
from sdk.backends.plan_store import (
    BuiltEngine,
    Host,
    built_engines,
    cache_folder,
    find_engine,
    listed_engines,
)
from sdk.backends.tensorrt_engine import Buffer, Library, LoadedEngine
from sdk.bundle import Bundle, Precision, RandomInput
from sdk.errors import BackendError

MAX_BATCH = 256

Allocate = Callable[[str, tuple[int, ...]], Buffer]


class Pass(NamedTuple):
    """Engines that run one into the next, the arrays that they are fed, and the buffers that are wanted."""

    engines: Sequence[LoadedEngine]
    feeds: Sequence[tuple[Buffer, Array]]
    wanted: Sequence[Buffer]


class EngineSet:
    """A bundle's engines for ``batch`` images at a time, loaded.

    The purified image's buffer is each purifier's output and each classifier's input: that is the chain.

    Args:
        allocate: makes a buffer of a type and shape.
        built: the engines, by id.
        rebuild: the command that builds them again.
        held: releases the engines.
    """

    def __init__(
        self,
        bundle: Bundle,
        library: Library,
        allocate: Allocate,
        held: ExitStack,
        *,
        built: Mapping[str, BuiltEngine],
        rebuild: str,
        batch: int,
    ) -> None:
        manifest = bundle.manifest
        shape = (batch, 3, manifest.image.height, manifest.image.width)
        self.batch = batch
        self.image = allocate("float32", shape)
        self.purified = allocate("float32", shape)
        self.logits = allocate("float32", (batch, len(bundle.labels)))
        random_inputs: dict[RandomInput, Buffer] = {}
        for spec in {spec: None for engine in manifest.purifiers for spec in engine.random_inputs}:
            random_inputs[spec] = allocate(spec.dtype, (batch, *spec.shape[1:]))

        def load(engine_id: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> LoadedEngine:
            loaded = LoadedEngine(library, built[engine_id], inputs, outputs, rebuild)
            held.callback(loaded.close)
            return loaded

        self.purifiers = [
            load(
                engine.id,
                {"image": self.image} | {spec.name: random_inputs[spec] for spec in engine.random_inputs},
                {"purified": self.purified},
            )
            for engine in manifest.purifiers
        ]
        self.classifiers = [
            load(engine.id, {"image": self.purified}, {"logits": self.logits})
            for engine in manifest.classifiers
        ]

    @property
    def engines(self) -> tuple[LoadedEngine, ...]:
        return (*self.purifiers, *self.classifiers)


def shared_runs(purifiers: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Rows that drew the same purifier, at most ``batch`` of them in a list."""
    by_purifier: dict[int, list[int]] = {}
    for row, purifier in enumerate(purifiers):
        by_purifier.setdefault(purifier, []).append(row)
    for rows in by_purifier.values():
        for start in range(0, len(rows), batch):
            yield rows[start : start + batch]


def by_row(
    found: Sequence[tuple[list[Array], list[float]]],
    passes: Sequence[Pass],
    members: Sequence[tuple[list[int], list[int]]],
    count: int,
) -> list[Inference]:
    """What each row of a batch got, of the passes that its purifier and classifier ran in."""
    purified: dict[int, Array] = {}
    purify_s: dict[int, float] = {}
    results: dict[int, Inference] = {}
    for (outputs, times_s), one, (rows, mine) in zip(found, passes, members, strict=True):
        if len(one.engines) == 2:  # the purifier's
            for number, row in enumerate(rows):
                purify_s[row] = times_s[0] / len(rows)
                if len(one.wanted) == 2:
                    purified[row] = outputs[0][number : number + 1]
        for row in mine:
            logits = outputs[-1][rows.index(row)][None]
            results[row] = Inference(logits, purified.get(row), purify_s[row], times_s[-1] / len(mine))
    return [results[row] for row in range(count)]


def find_batch(bundle: Bundle, precision: Precision, host: Host) -> tuple[int, dict[str, BuiltEngine]] | None:
    """The engines for the most images at a time that this host has all of; None where all take one."""
    first, *_ = engines = bundle.manifest.engines
    found = list(listed_engines(bundle, first.id, precision))
    with suppress(OSError):  # there need not be a cache; of what is in it, find_engine trusts the user's own
        found += built_engines(cache_folder(bundle), first.id, precision)
    for batch in sorted({built.batch for built in found if 1 < built.batch <= MAX_BATCH}, reverse=True):
        with suppress(BackendError):
            return batch, {e.id: find_engine(bundle, e, precision, host, batch=batch) for e in engines}
    return None
