"""Finished work is used again by the same command, and refused to another."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.protect.workspace import STATE, Workspace
from sdk.errors import UsageError

OPTIONS = {"--hours": 2.0, "--eps": 0.0314, "--labels": ["a", "b"]}


def test_what_is_finished_is_known_to_the_next_command(tmp_path: Path) -> None:
    first = Workspace.open(tmp_path / "work", OPTIONS)
    first.finish("bank")
    first.finish("precisions", "int8 left out: too inexact")
    second = Workspace.open(tmp_path / "work", OPTIONS)
    assert second.is_finished("bank")
    assert not second.is_finished("1-blind")
    assert second.state.notes == ("int8 left out: too inexact",)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"--hours": 3.0}, "another --hours: 2.0, now 3.0"),
        ({"--labels": ["b", "a"]}, r"another --labels: \['a', 'b'\], now \['b', 'a'\]"),
        ({"--family": "ren"}, "another --family: None, now ren"),
    ],
)
def test_other_options_are_refused(changed: dict[str, object], complaint: str, tmp_path: Path) -> None:
    Workspace.open(tmp_path, OPTIONS)
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(UsageError, match=rf"--work .*: it holds work with {complaint}; give the options"):
        Workspace.open(tmp_path, {**OPTIONS, **changed})
    assert (tmp_path / STATE).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"options": 3}'])
def test_damaged_state_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(content)
    with pytest.raises(UsageError, match=r"protect\.json in it is damaged: .*; remove the folder"):
        Workspace.open(tmp_path, OPTIONS)


def test_a_file_in_the_folders_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("")
    with pytest.raises(UsageError, match=r"--work .*work: can't be used: "):
        Workspace.open(tmp_path / "work", OPTIONS)
