from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdk.cli import main
from tests.sdk.cli.helpers import ON_THE_CPU, Output
from tests.sdk.conftest import write_video


@pytest.fixture
def edge_purify(capfd: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Runs the command in this process."""

    def run(*arguments: object) -> Output:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        lines = [line for line in captured.err.splitlines() if line != ON_THE_CPU]
        return ended.value.code, captured.out, lines

    return run


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4")
