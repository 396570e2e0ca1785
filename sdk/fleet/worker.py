"""What a process of a batch does: it reads pictures, purifies and classifies them, and returns their records.

A picture that can't be read gives a record that says so. A failure of an engine does, too: nothing ends a
batch but the loss of its cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from sdk.arrays import Pixels
from sdk.errors import SourceError
from sdk.fleet.inputs import Item, open_file, read_bytes
from sdk.fleet.pictures import MAX_BYTES, decode
from sdk.fleet.setup import Setup
from sdk.result import Result, skipped
from sdk.sinks.record import record
from sdk.sources import Frame

AT_A_TIME = 16  # pictures that are unpacked at once
_NONE = np.zeros((1, 1, 3), np.uint8)  # in the place of a picture that can't be read

Rows = dict[str, Any]


class Worker:
    """Purifies the pictures of items; an actor of Ray Data.

    Args:
        setup: of its Purifier.
        column: of the encoded pictures in a Parquet file.
        done: by item, rows that are on record already, counted from its first.
    """

    def __init__(self, setup: Setup, column: str, done: dict[tuple[str, int], frozenset[int]]) -> None:
        self._purifier = setup.load()
        self._column, self._done = column, done
        self._encoder = msgspec.json.Encoder()

    def __call__(self, batch: Rows) -> Iterator[Rows]:
        """Rows ``item``, each an ``Item`` as JSON, to rows ``record``, each a ``Record`` as JSON."""
        waiting: list[tuple[Frame | None, str, int, str]] = []
        for encoded in batch["item"]:
            item = msgspec.json.decode(encoded, type=Item)
            for frame, data, error in self._pictures(item):
                waiting.append(self._unpacked(item, frame, data, error))
                if len(waiting) >= AT_A_TIME:
                    yield self._records(waiting)
                    waiting = []
        if waiting:
            yield self._records(waiting)

    def _unpacked(
        self, item: Item, frame: int, data: bytes, error: str | None
    ) -> tuple[Frame | None, str, int, str]:
        name = item.source if item.group is None else f"{item.source}, row {frame}"
        try:
            if error is not None:
                raise SourceError(error)
            return Frame(decode(data, name), frame, item.source), item.source, frame, ""
        except SourceError as failure:
            return None, item.source, frame, str(failure)

    def _records(self, waiting: list[tuple[Frame | None, str, int, str]]) -> Rows:
        pictures: list[Pixels] = [frame.image for frame, _, _, _ in waiting if frame is not None]
        results = iter(self._purifier.batch(pictures))
        labels = self._purifier.bundle.labels
        found = []
        for frame, source, index, error in waiting:
            result: Result = skipped(error) if frame is None else next(results)
            found.append(self._encoder.encode(record(frame or Frame(_NONE, index, source), result, labels)))
        return {"record": found}

    def _pictures(self, item: Item) -> Iterator[tuple[int, bytes, str | None]]:
        """(frame, encoded picture, error) of every picture that isn't on record."""
        if item.group is None:
            try:
                yield item.frame, read_bytes(os.fsdecode(item.path), MAX_BYTES), None
            except (OSError, SourceError) as error:
                yield item.frame, b"", f"{item.source}: can't be read: {_reason(error)}"
            return
        left = set(range(item.rows)) - self._done.get((item.source, item.group), frozenset())
        try:
            values = _column(item, self._column)
        except Exception as error:  # Arrow's own, and its file systems' many
            for row in sorted(left):
                yield item.frame + row, b"", f"{item.source}: can't be read: {_reason(error)}"
            return
        for row in sorted(left):
            value = values[row].as_py()
            yield item.frame + row, value or b"", None if value else f"{item.source}: no picture in row {row}"


def _column(item: Item, column: str) -> Any:
    from pyarrow import parquet

    with open_file(os.fsdecode(item.path)) as stream:
        return parquet.ParquetFile(stream).read_row_group(item.group, columns=[column])[column]


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
