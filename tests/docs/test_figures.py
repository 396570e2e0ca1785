"""Figures in README and documentation are those of the default bundle and of docs/figures.json."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "scripts" / "figures.py"


def test_every_page_shows_the_present_figures() -> None:
    line = [sys.executable, str(SCRIPT), "--check"]
    checked = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
