"""Labels as people's editors and data sets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.external_classifier.classifier import read_labels
from sdk.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red\nblue\n", ("red", "blue")),
        ("\ufeffred\nblue", ("red", "blue")),
        ("red\r\nblue\r\n", ("red", "blue")),
        ("red\nblue\n\n\n", ("red", "blue")),
        ("maillot\ncrane\nmaillot\ncrane\n", ("maillot", "crane", "maillot", "crane")),
        ("  hot dog \ta\n", ("hot dog a",)),
        ("cafe\u0301\n", ("caf\u00e9",)),
        ("one\u2028line\nnext\x85line\n", ("one line", "next line")),
    ],
    ids=[
        "plain",
        "byte order mark",
        "Windows",
        "lines at the end",
        "twice",
        "spaces",
        "composed",
        "separators",
    ],
)
def test_labels_are_normalized_and_kept_by_line(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    (tmp_path / "labels.txt").write_bytes(text.encode())
    assert read_labels(tmp_path / "labels.txt") == expected


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"red\n\nblue\n", "line 2 is empty, expected one label a line"),
        (b"red\n  \t\nblue\n", "line 2 is empty"),
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b"\xff\xfer\x00", "not UTF-8 text; give a text file"),
        (None, "can't be read: No such file"),
    ],
)
def test_labels_that_cannot_be_used_are_one_line(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)
