"""A few inputs for every target of the fuzzing, and that the bar notices what misses it."""

from __future__ import annotations

import mmap
import signal
from pathlib import Path

import click
import pytest

from sdk.errors import UsageError
from tests.fuzz import bar
from tests.fuzz.run import TARGETS, hypothesis_run, watch

INPUTS = 10


@pytest.fixture(scope="module", autouse=True)
def _watched() -> None:
    watch()


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_few_inputs_meet_the_bar(target: str) -> None:
    hypothesis_run(target, INPUTS, seed=0)


def test_a_file_elsewhere_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    with bar.held(tmp_path / "given"):
        (tmp_path / "given" / "file").write_text("allowed")
    with pytest.raises(bar.Missed, match="wrote outside the folders given"), bar.held(tmp_path / "given"):
        (tmp_path / "elsewhere").write_text("not allowed")


def test_much_memory_is_noticed(tmp_path: Path) -> None:
    def take() -> None:
        with mmap.mmap(-1, bar.MAX_BYTES + (64 << 20)) as memory:
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = 1

    with pytest.raises(bar.Missed, match="MiB"), bar.held(tmp_path):
        take()


def test_an_error_must_be_one_line_of_ours(tmp_path: Path) -> None:
    with bar.held(tmp_path):
        raise UsageError("one line")
    with pytest.raises(bar.Missed, match="not one line"), bar.held(tmp_path):
        raise click.UsageError("one\nand another")
    with pytest.raises(ZeroDivisionError), bar.held(tmp_path):
        raise ZeroDivisionError


def test_a_hang_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bar, "MAX_S", 1)
    with pytest.raises(bar.Missed, match="no end within 1 s"), bar.held(tmp_path):
        signal.pause()
