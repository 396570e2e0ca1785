"""The output of a batch: the JSON lines' columns, whole files, and what is on record."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from sdk import Purifier
from sdk.errors import SinkError, UsageError
from sdk.fleet.parts import Parts, require_folder, schema
from sdk.result import skipped
from sdk.sinks.record import Record, record
from sdk.sources import Frame

pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'edge-purify[ray]'")
from pyarrow import parquet


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Of one picture that was purified, and one that could not be read."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    with Purifier.load(suspicion=True, keep_purified=False) as purifier:
        labels = purifier.bundle.labels
        return [
            record(Frame(pixels, 0, "a.png"), purifier(pixels), labels),
            record(Frame(pixels, 1, "b.png"), skipped("b.png: a damaged picture"), labels),
        ]


def test_columns_are_the_fields_of_the_json_lines() -> None:
    assert [column.name for column in schema()] == [field.name for field in msgspec.structs.fields(Record)]


def test_what_is_written_is_what_the_json_lines_say(records: list[Record], tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out")
    for each in records:
        parts.add(each)
    parts.flush()
    (path,) = parts.files()
    rows = parquet.read_table(path).to_pylist(maps_as_pydicts="strict")
    assert rows == [msgspec.to_builtins(each) for each in records]
    assert parts.written == 2


def test_full_parts_are_written_and_later_runs_add_theirs(records: list[Record], tmp_path: Path) -> None:
    first = Parts(tmp_path, rows=1)
    first.add(records[0])
    assert [path.name for path in first.files()] == ["part-00000.parquet"]
    second = Parts(tmp_path)
    assert second.done() == {("a.png", 0)}
    second.add(records[1])
    second.flush()
    assert [path.name for path in second.files()] == ["part-00000.parquet", "part-00001.parquet"]
    assert Parts(tmp_path).done() == {("a.png", 0), ("b.png", 1)}


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_a_damaged_part_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "part-00000.parquet").write_bytes(content)
    with pytest.raises(SinkError, match=r"part-00000\.parquet: can't be read as a part .*; take it away"):
        Parts(tmp_path).done()


def test_an_output_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("", str(tmp_path / "file"), "s3://bucket/out"):
        with pytest.raises(UsageError, match="expected a folder"):
            require_folder(path)
    with pytest.raises(SinkError, match="can't be made: Not a directory"):
        Parts(tmp_path / "file" / "out")
