"""A batch's process, without a cluster: one record for every picture, whatever it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from sdk.fleet.inputs import Item
from sdk.fleet.setup import Setup
from sdk.fleet.worker import Worker
from sdk.sinks.record import Record
from tests.sdk.fleet.conftest import picture

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'edge-purify[ray]'")


def work(worker: Worker, items: Iterable[Item]) -> list[Record]:
    batch = {"item": [msgspec.json.encode(item) for item in items]}
    encoded = [each for rows in worker(batch) for each in rows["record"]]
    return [msgspec.json.decode(each, type=Record) for each in encoded]


def test_every_picture_has_a_record_and_those_on_record_have_none(tmp_path: Path) -> None:
    from pyarrow import parquet

    values = [picture(1), None, b"junk", b"", picture(2)]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"image": pa.array(values, pa.binary())}), path)
    (tmp_path / "good.png").write_bytes(picture(3))
    items = [
        Item(bytes(tmp_path / "good.png"), "good.png", 0),
        Item(bytes(tmp_path / "absent.png"), "absent.png", 1),
        Item(bytes(path), "a.parquet", 0, 0, 5),
        Item(bytes(tmp_path / "gone.parquet"), "gone.parquet", 7, 0, 2),
    ]
    worker = Worker(Setup(hide_draw=True), "image", {("a.parquet", 0): frozenset({4})})
    found = work(worker, items)
    assert [(each.source, each.frame) for each in found] == [
        ("good.png", 0),
        ("absent.png", 1),
        *(("a.parquet", row) for row in range(4)),
        ("gone.parquet", 7),
        ("gone.parquet", 8),
    ]
    assert [each.label is not None for each in found] == [True, False, True, *[False] * 5]
    assert "absent.png: can't be read: No such file" in str(found[1].error)
    assert found[3].error == "a.parquet: no picture in row 1"
    assert "a.parquet, row 2: not a picture" in str(found[4].error)
    assert "gone.parquet: can't be read" in str(found[7].error)
    assert all(each.draws == [] for each in found)
