"""A checkpoint that names code: nothing of it is imported unless the reader says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.export.cli.helpers import assert_one_line, run
from tests.export.conftest import CONFIG, save_untrained
from trainer import checkpoint
from trainer.cli import main as edge_train

CODE = "open(__file__ + '.imported', 'w')\nfrom tests.export.bundle.large_classifier import build\n"


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose classifier is made by a module that is importable, and that leaves a mark."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "someones_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("someones_code", None)
    classifier = {"kind": "module", "count": 1, "factory": "someones_code:build"}
    path = save_untrained(
        {**CONFIG, "model": {**CONFIG["model"], "classifier": classifier}}, tmp_path / "c.pt"
    )
    mark(tmp_path).unlink()  # making the checkpoint imported it
    sys.modules.pop("someones_code")
    return path


def mark(tmp_path: Path) -> Path:
    return tmp_path / "modules" / "someones_code.py.imported"


def test_reading_it_imports_nothing(named: Path, tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match=r"code that reading it would run; .*--trust-code"):
        checkpoint.load_defence(named)
    assert not mark(tmp_path).exists()
    assert checkpoint.load_defence(named, known_factory="someones_code:build").defence
    assert mark(tmp_path).exists(), "the reader's own config names it"


def test_the_commands_import_nothing_without_the_flag(named: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    assert_one_line(
        run("bundle", named, tmp_path / "out"), 1, "code that reading it would run", "--trust-code"
    )
    data = ["--data", str(tmp_path)]
    for command in (
        ["bank", str(named), *data, "--out", str(tmp_path / "bank.npz")],
        ["soften", str(named), *data, "--share", "0.5", "--out", str(tmp_path / "soft.npz")],
        ["evaluate", str(named), *data],
    ):
        result = CliRunner().invoke(edge_train, command)
        assert result.exit_code == 1, command[0]
        assert "code that reading it would run" in result.output, command[0]
    assert not mark(tmp_path).exists()


def test_with_the_flag_it_is_exported(named: Path, tmp_path: Path) -> None:
    made = run("bundle", named, tmp_path / "out", "--trust-code", "--images", 1)
    assert made.exit_code == 0, made.output
    assert mark(tmp_path).exists()
