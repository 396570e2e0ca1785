"""A batch's output: a folder of Parquet files with the columns of the JSON lines, each written whole.

Files that are there already are kept, and what they hold is not done again.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sdk.errors import SinkError, UsageError
from sdk.files import remove_stale_parts, write_atomically
from sdk.sinks.record import Record

ROWS = 10_000  # of a file, at most
_NAME = "part-{:05d}.parquet"

Done = set[tuple[str, int]]  #: source and frame of the records that are there


class Parts:
    """Writes records into ``folder``, which is made; a context manager that writes the rest at its end.

    Raises:
        SinkError: the folder can't be made or written, or holds a file that isn't a batch's.
    """

    def __init__(self, folder: Path, *, rows: int = ROWS) -> None:
        self.folder, self.rows = folder, rows
        self.written = 0
        self._waiting: list[Record] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"{folder}: can't be made: {error.strerror}") from None
        remove_stale_parts(folder)
        self._next = 1 + max((_number(path) for path in self.files()), default=-1)

    def files(self) -> list[Path]:
        """The files that are finished."""
        return sorted(self.folder.glob("part-*.parquet"), key=_number)

    def done(self) -> Done:
        """What earlier runs have recorded.

        Raises:
            SinkError: a file is damaged, or not a batch's.
        """
        return {key for path in self.files() for key in _keys(path)}

    def add(self, record: Record) -> None:
        """Take a record; a full part is written.

        Raises:
            SinkError: it can't be written.
        """
        self._waiting.append(record)
        if len(self._waiting) >= self.rows:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting as a part.

        Raises:
            SinkError: it can't be written.
        """
        if not self._waiting:
            return
        path = self.folder / _NAME.format(self._next)
        try:
            write_atomically(path, to_parquet(self._waiting))
        except OSError as error:
            raise SinkError(
                f"{path}: can't be written: {error.strerror}", hint="what was written before is kept"
            ) from None
        self.written += len(self._waiting)
        self._next += 1
        self._waiting = []


def _keys(path: Path) -> Iterator[tuple[str, int]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=["source", "frame"], partitioning=None)
        yield from zip(table["source"].to_pylist(), table["frame"].to_pylist(), strict=True)
    except (OSError, pa.ArrowException, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise SinkError(
            f"{path}: can't be read as a part of a batch: {reason}",
            hint="take it away, and its pictures are done again",
        ) from None


def to_parquet(records: Sequence[Record]) -> bytes:
    """A Parquet file of ``records``, in their order."""
    import pyarrow as pa
    from pyarrow import parquet

    stream = io.BytesIO()
    table = pa.Table.from_pylist([_row(record) for record in records], schema=schema())
    parquet.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(record)
    for name in ("top", "timings_ms"):
        if row[name] is not None:
            row[name] = list(row[name].items())
    return row


def schema() -> Any:
    """The columns: the fields of ``sdk.sinks.record.Record``."""
    import pyarrow as pa

    draw = pa.struct([("purifier", pa.string()), ("classifier", pa.string())])
    roi = pa.struct([(name, pa.int64()) for name in ("x", "y", "width", "height")])
    return pa.schema(
        [
            ("frame", pa.int64()),
            ("source", pa.string()),
            ("time_s", pa.float64()),
            ("label", pa.string()),
            ("score", pa.float64()),
            ("top", pa.map_(pa.string(), pa.float64())),
            ("suspicion", pa.float64()),
            ("draws", pa.list_(draw)),
            ("timings_ms", pa.map_(pa.string(), pa.float64())),
            ("roi", roi),
            ("seeded", pa.bool_()),
            ("error", pa.string()),
            ("accepted", pa.bool_()),
        ]
    )


def require_folder(path: str) -> Path:
    """``path`` as the folder that parts are written to.

    Raises:
        UsageError: there is something else, or it is an address.
    """
    if "://" in path:
        raise UsageError(
            f"{path}: expected a folder of this machine's file system", hint="copy it from there"
        )
    if not path or (os.path.lexists(path) and not Path(path).is_dir()):
        raise UsageError(f"OUTPUT {path!r}: expected a folder, or a name for a new one")
    return Path(path)


def _number(path: Path) -> int:
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1
