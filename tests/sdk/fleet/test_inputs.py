"""What a batch takes for its input: every picture once, in order, and the rest by name."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from sdk.errors import SourceError, UsageError
from sdk.fleet.inputs import Item, find, read_bytes
from tests.sdk.fleet.conftest import picture

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'edge-purify[ray]'")


def names(*specs: str) -> list[str]:
    return [Path(item.source).name for item in find(specs, "image").items]


def parquet(path: Path, column: str, values: list[object], group: int = 2) -> Path:
    from pyarrow import parquet as files

    files.write_table(pa.table({column: pa.array(values, pa.binary())}), path, row_group_size=group)
    return path


def test_a_folder_with_all_below_it(pictures: Path) -> None:
    found = find([str(pictures)], "image")
    expected = ["below/p-3.png", "damaged.jpg", "p-1.png", "p-2.png", "p-10.png", "p-11.png"]
    assert [item.source for item in found.items] == [f"{pictures}/{name}" for name in expected]
    assert [item.frame for item in found.items] == list(range(6))
    assert list(found.left_out) == [f"{pictures}/notes.txt"]
    assert found.rows == 6


def test_globs_end_at_a_slash_unless_they_are_doubled(pictures: Path) -> None:
    assert names(f"{pictures}/p-*.png") == ["p-1.png", "p-2.png", "p-10.png", "p-11.png"]
    assert names(f"{pictures}/p-1?.png") == ["p-10.png", "p-11.png"]
    assert names(f"{pictures}/p-[!12]*.png", f"{pictures}/p-[12].png") == ["p-1.png", "p-2.png"]
    assert names(f"{pictures}/**/*.png") == ["p-3.png", "p-1.png", "p-2.png", "p-10.png", "p-11.png"]
    assert names(f"{pictures}/*/*.png") == ["p-3.png"]


def test_a_name_with_a_glob_s_characters_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "p[1].png").write_bytes(picture(1))
    assert names(str(tmp_path / "p[1].png")) == ["p[1].png"]


def test_a_relative_path_stays_as_it_was_given(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures)
    assert [item.source for item in find(["below"], "image").items] == ["below/p-3.png"]
    assert find(["*.png"], "image").items[0].source == "p-1.png"


def test_what_is_named_twice_is_done_once(pictures: Path) -> None:
    twice = names(str(pictures / "p-1.png"), f"{pictures}/p-*.png")
    assert twice == ["p-1.png", "p-2.png", "p-10.png", "p-11.png"]


def test_an_address_is_read_by_its_file_system(pictures: Path) -> None:
    found = find([f"file://{pictures}"], "image")
    assert found.items[2].source == f"file://{pictures}/p-1.png"


def test_row_groups_of_parquet_files(tmp_path: Path) -> None:
    path = str(parquet(tmp_path / "a.parquet", "image", [picture(n) for n in range(5)]))
    assert find([path], "image").items == (
        Item(path.encode(), path, 0, 0, 2),
        Item(path.encode(), path, 2, 1, 2),
        Item(path.encode(), path, 4, 2, 1),
    )


def test_a_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", "jpeg", [picture(1)])
    with pytest.raises(UsageError, match=r"no column 'image' .* are jpeg; give --column"):
        find([str(path)], "image")


def test_a_damaged_parquet_file_is_named_beside_others(pictures: Path) -> None:
    (pictures / "z.parquet").write_bytes(b"PAR1 and no more")
    found = find([str(pictures)], "image")
    assert "damaged one" in found.left_out[f"{pictures}/z.parquet"]
    assert len(found.items) == 6


@pytest.mark.parametrize("spec", ["absent", "absent/*.png", "empty", "nowhere://bucket/folder"])
def test_nothing_to_read_is_one_line(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        find([spec], "image")
    assert spec.partition("/")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_path_is_told() -> None:
    with pytest.raises(UsageError, match="expected a path, got an empty one"):
        find([""], "image")


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_a_name_that_is_no_text_is_read_too(tmp_path: Path) -> None:
    path = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    Path(path).write_bytes(picture(2))
    (item,) = find([str(tmp_path)], "image").items
    assert item.source == f"{tmp_path}/caf\\udce9.png"
    sent = msgspec.json.decode(msgspec.json.encode(item), type=Item)
    assert read_bytes(os.fsdecode(sent.path), 10**6) == picture(2)
